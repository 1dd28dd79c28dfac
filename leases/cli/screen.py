"""A table that is drawn in place on a terminal of any size, and left there as text."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Final

from leases.cli.console import colours, plain, print_out, span
from leases.cli.rows import HEADER, aligned, cut, in_order, row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leases.store import Status

_ERASE_LINE: Final = "\x1b[K"
_ERASE_BELOW: Final = "\x1b[J"
_CLEAR: Final = "\x1b[H\x1b[2J"
_PLAIN, _BOLD, _DIM, _RED, _YELLOW = "\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[33m"


class Screen:
    """The part of the terminal that was drawn last: the cursor stands on the line below it."""

    def __init__(self) -> None:
        self._colours = colours()
        self._drawn = 0  # lines above the cursor that are ours
        self._clear = False

    def clear(self) -> None:
        """The terminal has another size: what was drawn may be anywhere on it by now."""
        self._clear, self._drawn = True, 0

    def forget(self) -> None:
        """Somebody else had the terminal meanwhile: draw below."""
        self._drawn = 0

    def leave(self) -> None:
        """Leave the last table as it is; what the terminal has echoed of Ctrl-C goes."""
        print_out(f"\r{_ERASE_BELOW}")

    def draw(
        self, found: Sequence[Status], store: str, trouble: tuple[Exception, float] | None, refused: int
    ) -> None:
        """Draw the table in the place of the last one.

        Args:
            found: the locks.
            store: which store, without secrets.
            trouble: why it gives no answer, and for how many seconds.
            refused: how many records cannot be shown.
        """
        width, height = self._size()
        lines = self._table(found, width, max(height - 3, 1), stale=trouble is not None)
        lines.append(self._foot(found, store, trouble, refused, width))
        up = f"\x1b[{self._drawn}A" if self._drawn else ""
        before = _CLEAR if self._clear else f"\r{up}"
        self._clear, self._drawn = False, len(lines)
        print_out(before + "".join(f"{line}{_ERASE_LINE}\n" for line in lines) + _ERASE_BELOW)

    def _table(self, found: Sequence[Status], width: int, room: int, *, stale: bool) -> list[str]:
        ordered = in_order(found)
        # Whoever has no room for all wants to see who holds something.
        shown = ordered if len(ordered) <= room else in_order(sorted(ordered, key=_is_free)[: room - 1])
        now = time.time()
        head, *lines = (
            cut(line, width) for line in aligned([HEADER, *(row(status, now) for status in shown)])
        )
        styles = (_style(status, stale=stale) for status in shown)
        body = [self._in(style, line) for style, line in zip(styles, lines, strict=True)]
        if len(shown) < len(ordered):
            more = f"… and {len(ordered) - len(shown)} more; a larger window or --prefix shows them"
            body.append(cut(more, width))
        return [self._in(_BOLD, head), *body]

    def _foot(
        self,
        found: Sequence[Status],
        store: str,
        trouble: tuple[Exception, float] | None,
        refused: int,
        width: int,
    ) -> str:
        if trouble is not None:
            error, seconds = trouble
            return self._in(_RED, cut(plain(f"stale for {span(seconds)}: {error}"), width))
        held = sum(status.held and status.expires_in != 0 for status in found)
        strange = f", and {refused} not ours" if refused else ""
        when = time.strftime("%H:%M:%S")
        text = f"{when}  {held} held of {len(found)}{strange}, in {store}; Ctrl-C ends"
        return self._in(_DIM, cut(plain(text), width))

    def _size(self) -> tuple[int, int]:
        """Columns that can be written without the cursor's going to the next line, and lines."""
        try:
            columns, lines = os.get_terminal_size(sys.stdout.fileno())
        except OSError:
            columns, lines = 80, 24
        return max((columns or 80) - 1, 10), max(lines or 24, 4)

    def _in(self, style: str, text: str) -> str:
        return f"{style}{text}{_PLAIN}" if style and self._colours else text


def _is_free(status: Status) -> bool:
    return not status.held


def _style(status: Status, *, stale: bool) -> str:
    if stale or not status.held:
        return _DIM
    return "" if status.expires_in else _YELLOW
