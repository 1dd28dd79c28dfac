"""The command line: `leases COMMAND …`.

A command is a module with `add_arguments(parser)` and `run(args) -> int`, and it is imported when it is asked
for: these commands wrap others that may be shorter than an import.
"""

from __future__ import annotations

import os
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
    "elect": Command("leases.cli.elect", "take part in an election, with a command or without one"),
    "elector": Command("leases.sidecar.command", "leader election over HTTP, for an application beside it"),
    "status": Command("leases.cli.status", "who holds a lock, for how long, with which token"),
    "list": Command("leases.cli.listing", "the locks of a store"),
    "watch": Command("leases.cli.watch", "who holds what, as it changes"),
    "validate": Command("leases.cli.validating", "whether a caller holds the lock now, asked of the store"),
    "break": Command("leases.cli.breaking", "take a lock from its holder"),
    "prune": Command("leases.cli.pruning", "free the locks of dead holders, remove free records"),
    "doctor": Command("leases.cli.doctor", "whether locks will work here, and how soon another takes over"),
    "simulate": Command(
        "leases.testing.simulation", "run the protocol against a store and a network that misbehave"
    ),
    "completion": Command("leases.cli.completion", "what a shell needs to complete these commands"),
}

_HELP: Final = """\
usage: leases COMMAND [options]

Locks and leader election on leases, over the store that you already run.

commands:
{commands}

  leases help COMMAND    what a command does and takes, with examples; so does leases COMMAND --help
  leases --version       which leases this is

The store is the one of --backend, else of $LEASES_URL, else a file of this user on this host. Results are on
stdout, without colours and tricks where it is no terminal; everything else is on stderr. With --json results
are JSON: one object, or one object a line. What went wrong is told in one line, and by the exit code.

examples:
  leases hold nightly --skip -- ./report.sh         on many hosts, from cron: one of them runs it
  leases hold deploy -w 10m -- make deploy          wait for ten minutes at most
  leases list --backend sqlite:///var/lib/app.db    who holds what
  leases watch --prefix orders/                     the same, as it changes
  leases doctor --backend etcd://etcd-1,etcd-2      will it work, and how soon does another take over
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: the arguments; default those of the process.
    """
    if argv is None and os.getpid() == 1:  # A container, whose orphans are ours to wait for.
        from leases.cli.init import become_first

        become_first()
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(words) or _flushed()
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        return _unwritten(error)


def _flushed() -> int:
    from leases.cli.console import print_out

    return print_out("")


def _unwritten(error: OSError) -> int:
    """Nobody reads stdout, or it cannot be written; any other error of the system is not for here."""
    from leases.cli.console import OutputFailed, complain, is_of_output, silence_output

    if not isinstance(error, BrokenPipeError) and not is_of_output(error):
        raise error
    silence_output()
    if isinstance(error, BrokenPipeError):
        return 141  # As if SIGPIPE had ended it, which Python has ignored.
    from leases.cli import exits

    complain("leases", str(OutputFailed(error.errno, error.strerror)))
    return exits.OUTPUT


def _run(words: list[str]) -> int:
    from leases.cli import exits
    from leases.cli.console import complain, print_out

    command = words[0] if words else ""
    if command == "help" and words[1:2] not in ([], ["-h"], ["--help"]):
        command, words = words[1], [words[1], "--help"]
    if command in ("-h", "--help", "help"):
        return print_out(_overview())
    if command in ("-V", "--version"):
        from leases import __version__

        return print_out(f"leases {__version__}\n")
    if command not in COMMANDS:
        complain("leases", f"{_unknown(command)} leases --help")
        return exits.USAGE
    return _dispatch(command, words[1:])


def _unknown(command: str) -> str:
    if not command:
        return "no command was given; see"
    if command.startswith("-"):
        return f'the command comes before its options, and "{command.partition("=")[0]}" is none; see'
    from leases.cli.options import meant

    return f'there is no command "{command}"{meant(command, COMMANDS)}'


def _dispatch(command: str, words: list[str]) -> int:
    """Parse what follows the command's name, run it, and turn a failure into one line and a code."""
    from leases.cli import exits
    from leases.cli.console import complain
    from leases.cli.options import Help, UsageError, parse
    from leases.errors import LeasesError
    from leases.logs import hushed

    try:
        module = load(command)
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


def load(command: str) -> ModuleType:
    """The module of a command.

    Raises:
        StoreUnavailable: it is not there.
    """
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
    from leases.cli.options import columns
    from leases.cli.prose import wrap

    usage, _, rest = _HELP.format(commands="\n".join(lines)).partition("\n\n")
    return f"{usage}\n\n{wrap(rest, columns())}\n"
