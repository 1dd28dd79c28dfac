"""The shape of the command line, as its parsers declare it: what completion and the manual are made from."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from types import ModuleType


class Value(Enum):
    """What a word stands for, as far as a shell can help with it."""

    LOCK = "lock"
    STORE = "store"
    FILE = "file"
    CHOICE = "choice"
    COMMAND = "command"  # one of ours
    OTHER = "other"


class Word(NamedTuple):
    """An option's value, or an argument.

    Attributes:
        shown: what help calls it.
        value: what it stands for.
        choices: what it may be, where that is known.
        help: what help says of it.
        optional: it may be left out.
    """

    shown: str
    value: Value
    choices: Sequence[str] = ()
    help: str = ""
    optional: bool = False


class Option(NamedTuple):
    """An option.

    Attributes:
        names: as they are typed.
        typed: the same as help shows it, with its value.
        help: what help says of it.
        value: what follows it; None where nothing does.
    """

    names: Sequence[str]
    typed: str
    help: str
    value: Word | None


class Shape(NamedTuple):
    """One command.

    Attributes:
        name: as it is typed after `leases`.
        summary: what it does in a few words.
        usage: how it is typed.
        options: its options, in the order of its help.
        words: its arguments.
        takes_command: another command may follow, behind `--`.
        prose: what stands under its options.
    """

    name: str
    summary: str
    usage: str
    options: Sequence[Option]
    words: Sequence[Word]
    takes_command: bool
    prose: str


def shape_of(name: str, summary: str, module: ModuleType) -> Shape:
    """The shape of a command that a module is."""
    from leases.cli.options import invocation, parser_of

    parser = parser_of(f"leases {name}", summary, module)
    options: list[Option] = []
    words: list[Word] = []
    for action in parser._actions:  # pyright: ignore[reportPrivateUsage] - argparse has no other way to ask
        if action.help is argparse.SUPPRESS:
            continue
        help_text = (action.help or "").replace("%%", "%")
        if not action.option_strings:
            words.append(_word(action, help_text))
            continue
        value = None if action.nargs == 0 else _word(action, help_text)
        names = tuple(action.option_strings)
        options.append(Option(names, invocation(action), help_text, value))
    usage = parser.usage or parser.prog
    return Shape(name, summary, usage, options, words, parser.takes_command, parser.epilog or "")


_VALUES: Final = {"URL": Value.STORE, "FILE": Value.FILE, "PREFIX": Value.LOCK}


def shapes() -> Iterator[Shape]:
    """Every command, in the order of the overview, and `help`, which is none of them."""
    from leases.cli import COMMANDS, load

    for name, command in COMMANDS.items():
        yield shape_of(name, command.summary, load(name))
    asked = Word("COMMAND", Value.COMMAND, tuple(COMMANDS), "the command", optional=True)
    yield Shape("help", "what a command does and takes", "leases help [COMMAND]", (), (asked,), False, "")


def _word(action: argparse.Action, text: str) -> Word:
    shown = str(action.metavar or action.dest)
    choices = tuple(map(str, action.choices or ()))
    if choices:
        value = Value.CHOICE
    elif shown == "NAME" and not action.option_strings:  # That of an option is a holder's.
        value = Value.LOCK
    else:
        value = _VALUES.get(shown, Value.OTHER)
    shown = shown if action.metavar or not choices else "|".join(choices)
    return Word(shown, value, choices, text, action.nargs == "?")
