"""The prose under a command's options: written once, for a terminal of any width and for the manual.

It is paragraphs, and listings: a title that ends in a colon, and below it indented lines of a term, two
blanks or more, and what it means. Written for 110 columns it stays as it is where there are so many.

    exit codes:
       0  it is broken
      75  nobody holds it, or by another token
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

_ENTRY: Final = re.compile(r"( +)(\S+(?: \S+)*)(?:( {2,})(\S.*))?")
_HANGING: Final = 16  # terms that are no longer than this have their meanings beside them


class Paragraph(NamedTuple):
    """Some sentences."""

    text: str


class Listing(NamedTuple):
    """Terms and what they mean; the meaning is empty where there is none.

    Attributes:
        title: without its colon; empty where there is none.
        entries: terms and meanings, in order.
    """

    title: str
    entries: Sequence[tuple[str, str]]


def parse(text: str) -> Iterator[Paragraph | Listing]:
    """The blocks of a text."""
    for block in re.split(r"\n(?:[ ]*\n)+", text.strip("\n")):
        lines = block.split("\n")
        first = next((i for i, line in enumerate(lines) if line.startswith(" ")), len(lines))
        if first == len(lines) or not _is_title(lines[:first]):
            yield Paragraph(" ".join(line.strip() for line in lines))
        else:
            yield Listing("".join(lines[:first]).rstrip(":"), _entries(lines[first:]))


def wrap(text: str, width: int) -> str:
    """The text for so many columns: as it stands where it fits, else filled anew."""
    if all(len(line) <= width for line in text.split("\n")):
        return text.strip("\n")
    return "\n\n".join(_wrapped(block, width) for block in parse(text))


def _is_title(lines: Sequence[str]) -> bool:
    return not lines or (len(lines) == 1 and lines[0].endswith(":"))


def _entries(lines: Sequence[str]) -> list[tuple[str, str]]:
    """A line that is indented as far as a meaning, or further than a term without one, goes on with it."""
    found: list[tuple[str, str]] = []
    continues = 0
    for line in lines:
        match = _ENTRY.fullmatch(line.rstrip())
        assert match is not None, f"a listing has a line that is not indented: {line!r}"
        indent = len(match[1])
        if found and indent >= continues:
            term, meaning = found[-1]
            found[-1] = term, f"{meaning} {line.strip()}".lstrip()
            continue
        found.append((match[2], match[4] or ""))
        continues = match.start(4) if match[4] else indent + 4
    return found


def _wrapped(block: Paragraph | Listing, width: int) -> str:
    from textwrap import fill

    if isinstance(block, Paragraph):
        return fill(block.text, width, break_long_words=False, break_on_hyphens=False)
    return "\n".join([f"{block.title}:"] * bool(block.title) + [*_lines(block.entries, width)])


def _lines(entries: Sequence[tuple[str, str]], width: int) -> Iterator[str]:
    from textwrap import wrap as lines_of

    def within(text: str, indent: int) -> list[str]:
        return lines_of(text, max(width - indent, 20), break_long_words=False, break_on_hyphens=False)

    longest = max(len(term) for term, _ in entries)
    for term, meaning in entries:
        if longest <= _HANGING and meaning:
            first, *more = within(meaning, longest + 4)
            yield f"  {term:<{longest}}  {first}"
            yield from (" " * (longest + 4) + line for line in more)
        else:
            yield f"  {term}"
            yield from (f"      {line}" for line in (within(meaning, 6) if meaning else ()))
