"""The command line: `leases COMMAND …`.

A command is a module with `add_arguments(parser)` and `run(args) -> int`, and it is imported when it is asked
for: these commands wrap others that may be shorter than an import.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType


class Command(NamedTuple):
    """Where a command is, and what it does in a few words."""

    module: str
    summary: str


COMMANDS: Final = {
    "hold": Command("leases.cli.hold", "hold a lock while a command runs, or until a signal"),
    "status": Command("leases.cli.status", "who holds a lock, for how long, with which token"),
    "list": Command("leases.cli.listing", "the locks of a store"),
    "break": Command("leases.cli.breaking", "take a lock from its holder"),
    "prune": Command("leases.cli.pruning", "free the locks of dead holders, remove free records"),
    "doctor": Command("leases.cli.doctor", "whether locks will work here, and how soon another takes over"),
    "simulate": Command(
        "leases.testing.simulation", "run the protocol against a store and a network that misbehave"
    ),
}

_HELP: Final = """\
usage: leases COMMAND [options]

Locks and leader election on leases, over the store that you already run.

commands:
{commands}

  leases COMMAND --help    what a command does and takes, with examples
  leases --version         which leases this is

The store is the one of --backend, else of $LEASES_URL, else a file of this user on this host.

examples:
  leases hold nightly --skip -- ./report.sh         on many hosts, from cron: one of them runs it
  leases hold deploy -w 10m -- make deploy          wait for ten minutes at most
  leases list --backend sqlite:///var/lib/app.db    who holds what
  leases doctor --backend etcd://etcd-1,etcd-2      will it work, and how soon does another take over
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: the arguments; default those of the process.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(words)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        from leases.cli.console import silence_output

        silence_output()
        return 141  # As if SIGPIPE had ended it, which Python has ignored.


def _run(words: list[str]) -> int:
    from leases.cli import exits
    from leases.cli.console import complain, print_out

    command = words[0] if words else ""
    if command in ("-h", "--help", "help"):
        return print_out(_overview())
    if command in ("-V", "--version"):
        from leases import __version__

        return print_out(f"leases {__version__}\n")
    if command not in COMMANDS:
        what = f'there is no command "{command}"' if command else "no command was given"
        complain("leases", f"{what}; see leases --help for those that are")
        return exits.USAGE
    return _dispatch(command, words[1:])


def _dispatch(command: str, words: list[str]) -> int:
    """Parse what follows the command's name, run it, and turn a failure into one line and a code."""
    from leases.cli import exits
    from leases.cli.console import complain
    from leases.cli.options import Help, UsageError, parse
    from leases.errors import LeasesError
    from leases.logs import hushed

    try:
        module = _load(command)
        with hushed():
            return int(module.run(parse(f"leases {command}", COMMANDS[command].summary, module, words)))
    except Help:
        return exits.OK
    except UsageError as error:
        complain(f"leases {command}", str(error))
        return exits.USAGE
    except LeasesError as error:
        complain(f"leases {command}", str(error))
        return exits.code_of(error)


def _load(command: str) -> ModuleType:
    from importlib import import_module

    module = COMMANDS[command].module
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise
        from leases.errors import StoreUnavailable

        raise StoreUnavailable(f"{error.name} is missing; install leases again, whole") from error


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = (f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items())
    return _HELP.format(commands="\n".join(lines))
