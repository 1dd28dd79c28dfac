"""Parsing: argparse, with errors of one line that end in the next step."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
from typing import TYPE_CHECKING, Any, Final, NoReturn

from leases.urls import shown

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import ModuleType

_WIDTH_MOST: Final = 110  # what help is written for
_UNITS: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION: Final = re.compile(r"(\d+\.?\d*|\.\d+)(ms|s|m|h|d|)", re.ASCII)


class UsageError(Exception):
    """The words on the command line make no sense; the message says what to write instead."""


class Help(Exception):
    """Help was asked for, and given."""


class Parser(argparse.ArgumentParser):
    """A parser that raises instead of ending the process."""

    takes_command = False

    def error(self, message: str) -> NoReturn:
        surplus = message.removeprefix("unrecognized arguments: ")
        if surplus == message:
            raise UsageError(f"{message}; see {self.prog} --help")
        if self.takes_command and not surplus.startswith("-"):
            raise UsageError(f'put "--" before the command: {self.prog} NAME [options] -- {surplus}')
        raise UsageError(f"{self._surplus(surplus.split(' ')[0])} {self.prog} --help")

    def _surplus(self, word: str) -> str:
        """What is wrong with the first word that is too much; what follows it may be a secret."""
        if not word.startswith("-") or word == "-":
            return f'there is one word too many, "{shown(word)}"; see'
        option = word.partition("=")[0]
        return f"there is no option {option}{meant(option, self._option_string_actions)}"

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        raise Help

    def _print_message(self, message: str, file: Any = None) -> None:
        from leases.cli.console import print_out

        print_out(message)


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """As wide as the terminal, and with room for the options before their explanations."""

    def __init__(self, prog: str) -> None:
        width = columns()
        super().__init__(prog, max_help_position=38 if width >= 100 else 26, width=width)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        return invocation(action)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        from leases.cli.prose import wrap

        return wrap(text, width)


def invocation(action: argparse.Action) -> str:
    """How an option or an argument is typed: `-w, --wait SECS`."""
    value = "" if action.nargs == 0 else str(action.metavar or "|".join(action.choices or ()) or action.dest)
    return " ".join(filter(None, (", ".join(action.option_strings), value)))


def columns() -> int:
    """How wide help may be: $COLUMNS, else as the nearest terminal, at most what it is written for."""
    told = os.environ.get("COLUMNS", "")
    wide = int(told) if told.isascii() and told.isdigit() else 0
    for descriptor in (1, 2, 0):  # Help that goes through a pager is read on the same terminal.
        if wide <= 0:
            with contextlib.suppress(OSError):
                wide = os.get_terminal_size(descriptor).columns
    return min(max(wide, 40), _WIDTH_MOST) if wide > 0 else _WIDTH_MOST


def meant(word: str, known: Iterable[str]) -> str:
    """What to do about a word that is not known: `; try …, or see`, or only `; see`."""
    from difflib import get_close_matches

    near = get_close_matches(word, list(known), 1)
    return f"; try {near[0]}, or see" if near else "; see"


def parser_of(program: str, summary: str, module: ModuleType) -> Parser:
    """The parser of a command that a module is."""
    parser = Parser(
        prog=program,
        description=f"{summary[0].upper()}{summary[1:]}.",
        formatter_class=_Formatter,
        allow_abbrev=False,
    )
    parser._positionals.title = "arguments"  # "positional" is a word for programmers
    parser.takes_command = getattr(module, "TAKES_COMMAND", False)
    module.add_arguments(parser)
    if parser.usage is None:
        parser.usage = _usage(parser)
    return parser


def _usage(parser: Parser) -> str:
    """How it is typed: what cannot be left out, and that there is more."""
    arguments = [action for action in parser._actions if not action.option_strings]
    words = [f"[{invocation(each)}]" if each.nargs == "?" else invocation(each) for each in arguments]
    words += [invocation(each) for each in parser._actions if each.option_strings and each.required]
    return " ".join([parser.prog, *words, "[options]"])


def parse(program: str, summary: str, module: ModuleType, words: list[str]) -> argparse.Namespace:
    """The arguments of one command. What follows `--` is `args.command` where the module `TAKES_COMMAND`.

    Raises:
        UsageError: they make no sense.
        Help: help was asked for.
    """
    parser = parser_of(program, summary, module)
    if not parser.takes_command:
        return parser.parse_args(words)
    # Taken off by hand: argparse would look for options of ours in the command.
    end = words.index("--") if "--" in words else len(words)
    args = parser.parse_args(words[:end])
    args.command = words[end + 1 :]
    if words[end:] == ["--"]:  # As from an empty variable in a script, which must not mean: none.
        raise UsageError('nothing follows "--"; write a command, or leave it out')
    return args


def add_store(parser: argparse.ArgumentParser) -> None:
    """The options that every command about a store takes."""
    parser.add_argument(
        "--backend",
        metavar="URL",
        help="the store, such as sqlite:///var/lib/app.db; default $LEASES_URL, else a file of this user",
    )


def duration(text: str) -> float:
    """Seconds, from `1.5`, `500ms`, `90s`, `2m`, `1h` or `7d`."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f'"{text}" is not a duration; write 1.5, 500ms, 2m or 1h')
    return float(match[1]) * _UNITS[match[2]]


def exit_code(text: str) -> int:
    """An exit code, 0 to 255."""
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) <= 255):
        raise argparse.ArgumentTypeError(f'"{text}" is not an exit code; write a number from 0 to 255')
    return int(text)


def token(text: str) -> int:
    """A fencing token."""
    if not (text.isascii() and text.isdigit() and len(text) < 40):
        raise argparse.ArgumentTypeError(
            f'"{text}" is not a token; write a number, as leases status NAME shows it'
        )
    return int(text)


def pair(text: str) -> tuple[str, str]:
    """Key and value, from `K=V`."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f'"{text}" is not of the form KEY=VALUE; write one such as build=17')
    return key, value
