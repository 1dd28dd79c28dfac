"""`leases completion SHELL`: what a shell needs to complete commands, options, choices, stores and locks.

The scripts are made from the parsers, so there is one source for what can be typed. The names of locks are
asked for while they are being completed: by `leases list`, in a second at most, and silent where it fails.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from leases.cli.console import print_out
from leases.cli.shape import shapes

if TYPE_CHECKING:
    import argparse

_MORE: Final = """\
It completes commands, options and what they may be, the schemes of stores, and the names of locks, for which
it asks the store. The script is made for this version of leases; make it anew with the next.

to install it:
  bash  leases completion bash > ~/.local/share/bash-completion/completions/leases
  zsh   leases completion zsh > DIRECTORY/_leases, where DIRECTORY is one of $fpath
  fish  leases completion fish > ~/.config/fish/completions/leases.fish

examples:
  source <(leases completion bash)    for this shell only; the same with zsh
  leases completion fish | source
"""
SHELLS: Final = ("bash", "zsh", "fish")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _MORE
    parser.add_argument("shell", choices=SHELLS, help="for which shell")


def run(args: argparse.Namespace) -> int:
    """Print the script."""
    return print_out(script_for(args.shell))


def script_for(shell: str) -> str:
    """The script for one shell."""
    commands = list(shapes())
    if shell == "bash":
        from leases.cli.complete_bash import script
    elif shell == "zsh":
        from leases.cli.complete_zsh import script
    else:
        from leases.cli.complete_fish import script
    return script(commands)
