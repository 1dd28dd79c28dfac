"""The manual page leases(1), made from the parsers and from the prose of their help: `make man` writes it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from leases.cli.prose import Listing, Paragraph, parse
from leases.cli.shape import shapes

if TYPE_CHECKING:
    from leases.cli.shape import Option, Shape

_DESCRIPTION: Final = """\
Locks and leader election on leases, over a store that is already there: etcd, ZooKeeper, Consul, Kubernetes,
or a SQLite file for the processes of one host. Whoever holds a lock renews its record in the store before its
time to live is over; when its holder dies, others can have the lock soon after that.

Results are on stdout, without colours and tricks where it is no terminal; everything else is on stderr. With
--json results are JSON: one object, or one object a line. What went wrong is told in one line on stderr, and
by the exit code.
"""
_STATUS: Final = (
    ("0", "success, or yes"),
    ("1", "no, of `leases validate`; a promise was broken, of `leases simulate`"),
    ("64", "the words on the command line make no sense"),
    ("69", "the store cannot be reached"),
    ("70", "the lease was lost"),
    ("74", "stdout cannot be written"),
    ("75", "held by another, or by another token"),
    ("77", "the store, or what is in it, refuses us"),
    ("78", "something about the store is bad, of `leases doctor`"),
    ("126", "the command cannot be run"),
    ("127", "there is no such command"),
    ("128+N", "signal N ended it; 141: nobody reads stdout"),
)
_ENVIRONMENT: Final = (
    ("LEASES_URL", "the store, where --backend does not name it"),
    ("LEASES_NAME, LEASES_TOKEN, LEASES_HOLDER", "of the lock, for the command of `leases hold`"),
    ("COLUMNS", "how wide help is to be"),
    ("NO_COLOR", "where it is set, there are no colours on terminals either"),
)


def page() -> str:
    """The page, in roff with the man macros."""
    from leases import __version__

    return "".join(f"{line}\n" for line in _lines(__version__, list(shapes())))


def _lines(version: str, commands: Sequence[Shape]) -> Iterator[str]:
    yield '.\\" Made by: make man'
    yield f'.TH LEASES 1 "" "leases {version}" "leases"'
    yield ".SH NAME"
    yield "leases \\- locks and leader election on leases"
    yield ".SH SYNOPSIS"
    for shape in commands:
        yield from (".HP", _bold(shape.usage, keep=2))
    yield ".SH DESCRIPTION"
    for block in parse(_DESCRIPTION):
        yield from _block(block)
    yield ".SH COMMANDS"
    for shape in commands:
        yield from _command(shape)
    yield ".SH ENVIRONMENT"
    yield from _terms(_ENVIRONMENT)
    yield ".SH EXIT STATUS"
    yield from _terms(_STATUS)


def _command(shape: Shape) -> Iterator[str]:
    yield f'.SS "leases {shape.name}"'
    yield from _paragraph(f"{shape.summary[0].upper()}{shape.summary[1:]}.")
    yield from (".PP", _bold(shape.usage, keep=2))
    yield from _terms([(word.shown, word.help) for word in shape.words])
    for option in shape.options:
        if "--help" in option.names:  # All of them have it, and who reads this needs it least.
            continue
        yield from (".TP", _option(option), _text(option.help))
    for block in parse(shape.prose) if shape.prose else ():
        yield from _block(block)


def _block(block: Paragraph | Listing) -> Iterator[str]:
    if isinstance(block, Paragraph):
        yield from _paragraph(block.text)
    elif block.title == "examples":
        yield from (".PP", "Examples:")
        for typed, meaning in block.entries:
            yield from (".PP", ".RS 4", ".nf", _bold(typed), ".fi", ".RE")
            if meaning:
                yield from (".RS 8", _text(meaning), ".RE")
    else:
        if block.title:
            yield from (".PP", _text(f"{block.title[0].upper()}{block.title[1:]}:"))
        yield from _terms(block.entries)


def _paragraph(text: str) -> Iterator[str]:
    yield from (".PP", _text(text))


def _terms(entries: Sequence[tuple[str, str]]) -> Iterator[str]:
    for term, meaning in entries:
        yield from (".TP", _bold(term), _text(meaning) or "\\&")


def _option(option: Option) -> str:
    names = ", ".join(f"\\fB{_escaped(name)}\\fR" for name in option.names)
    return names if option.value is None else f"{names} \\fI{_escaped(option.value.shown)}\\fR"


def _bold(text: str, keep: int | None = None) -> str:
    """The text in bold, or its first words."""
    words = text.split(" ")
    bold = " ".join(words[:keep])
    rest = "" if keep is None else " ".join(words[keep:])
    return f"\\fB{_escaped(bold)}\\fR" + (f" {_escaped(rest)}" if rest else "")


def _text(text: str) -> str:
    """Running text; what stands between backquotes is set in bold."""
    parts = re.split(r"`([^`]+)`", text)
    return "".join(f"\\fB{_escaped(part)}\\fR" if i % 2 else _escaped(part) for i, part in enumerate(parts))


def _escaped(text: str) -> str:
    """Text that roff prints as it is: it has a use of its own for dashes, for quotes, and for a dot first."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    text = text.replace("^", "\\(ha").replace("~", "\\(ti").replace("…", "...")
    return f"\\&{text}" if text.startswith(".") else text


if __name__ == "__main__":
    sys.stdout.write(page())
