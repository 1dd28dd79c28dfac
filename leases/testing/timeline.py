"""One run as a picture: who believed what, and what the store said, over true time.

A self-contained SVG: a lane for each process, in the order of their hosts, and one for the store. It is
drawn from the marks of a watched run, and knows nothing else of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from textwrap import wrap
from typing import Final, NamedTuple

from leases.testing.world import Mark

_WIDE, _LEFT, _RIGHT = 1280, 132, 28
_TOP, _LANE, _GAP, _STORE = 98, 34, 14, 58
# Apart for every kind of eye (after Okabe and Ito); dark enough for white letters on them.
_COLOURS: Final = ("#0072b2", "#c44e00", "#007a5a", "#a0468c", "#7a6400", "#33709c", "#5b5b5b", "#8c3b1f")
_OPERATOR: Final = "#444444"
_ENDS: Final = frozenset({"lost", "released", "handed", "crash"})
_STYLE: Final = """
text{font:11px system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif;fill:#222}
.title{font-size:16px;font-weight:600}.sub{fill:#555}.lane{font-weight:600}.host{fill:#777;font-size:10px}
.axis{fill:#666;font-size:10px}.grid{stroke:#e6e6e6}.token{fill:#fff;font-size:10px;font-weight:600}
.flag{font-size:10px;fill:#b00020}.note{font-size:10px;fill:#555}
"""
# Hatches: the name, the width, the angle, and the colours of the ground and of the stripes on it.
_HATCHES: Final = (
    ("pause", 6, 45, "#fff", "#333"),
    ("sleep", 7, -45, "#cfe0f5", "#3567a8"),
    ("danger", 5, 45, "#ffb000", "#fff"),
)
_NOTE_LETTERS: Final = 190  # that fit on a line


class Bar(NamedTuple):
    """A stretch of time with something written on it."""

    begin: float
    end: float
    text: str = ""


class Story(NamedTuple):
    """What one process did, as stretches: reported belief, belief not yet reported, belief in jeopardy."""

    held: list[Bar]
    granted: list[Bar]
    danger: list[Bar]


def draw(marks: Sequence[Mark], lanes: Sequence[tuple[str, str]], *, title: str, note: str = "") -> str:
    """Draw a run.

    Args:
        marks: of the run, in order.
        lanes: (process, host) from top to bottom.
        title: the first line.
        note: the second, smaller line.
    """
    return _Picture(marks, lanes).svg(title, note)


def story(marks: Iterable[Mark], process: str, until: float) -> Story:
    """What a process believed, and when, from its marks."""
    told = Story([], [], [])
    begin: float | None = None  # of belief
    claimed: tuple[float, float, str] | None = None  # granted and not yet reported: since, deadline, token
    danger: float | None = None
    ends, token = 0.0, ""
    for mark in (*(m for m in marks if m.where == process), Mark(until, process, "crash")):
        at, what = mark.at, mark.what
        if claimed is not None and what in ("held", "granted", *_ENDS):
            told.granted.append(Bar(claimed[0], min(at, claimed[1]), claimed[2]))
            claimed = None
        if danger is not None and what in ("renewed", *_ENDS):
            told.danger.append(Bar(danger, min(at, ends)))
            danger = None
        if begin is not None and what in _ENDS:
            told.held.append(Bar(begin, min(at, ends), token))
            begin = None
        match what:
            case "granted":
                claimed = (at, mark.until or at, mark.text)
            case "held":
                begin, ends, token = at, mark.until or at, mark.text
            case "renewed":
                ends = mark.until or ends
            case "endangered" if begin is not None:
                danger = at
            case _:
                pass
    return told


class _Picture:
    """The drawing while it is made."""

    def __init__(self, marks: Sequence[Mark], lanes: Sequence[tuple[str, str]]) -> None:
        self.marks, self.lanes = marks, lanes
        self.ends = max((mark.at for mark in marks), default=1.0) or 1.0
        self.healed = next((mark.at for mark in marks if mark.what == "healed"), self.ends)
        self.colours = {name: _COLOURS[i % len(_COLOURS)] for i, (name, _) in enumerate(lanes)}
        self.top = {name: _TOP + i * (_LANE + _GAP) for i, (name, _) in enumerate(lanes)}
        self.store = _TOP + len(lanes) * (_LANE + _GAP) + 18
        self.high = self.store + _STORE + 84
        self._flagged = -1e9  # where the last word above the store stands

    def x(self, at: float) -> float:
        return _LEFT + (_WIDE - _LEFT - _RIGHT) * min(max(at, 0.0), self.ends) / self.ends

    def svg(self, title: str, note: str) -> str:
        """The picture."""
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDE} {self.high}" width="{_WIDE}" '
            f'height="{self.high}" role="img"><title>{escape(title)}</title><style>{_STYLE}</style><defs>'
        )
        parts = [
            head,
            *_hatches(),
            '</defs><rect width="100%" height="100%" fill="#fff"/>',
            self._text(_LEFT - 112, 28, title, "title"),
            *self._notes(note),
            *self._axis(),
            *(part for name, host in self.lanes for part in self._lane(name, host)),
            *self._store(),
            *self._world(),
            *self._legend(),
            "</svg>\n",
        ]
        return "\n".join(parts)

    def _notes(self, note: str) -> Iterator[str]:
        for i, line in enumerate(wrap(note, _NOTE_LETTERS)[:2]):
            yield self._text(_LEFT - 112, 46 + 14 * i, line, "sub")

    # ---- pieces ------------------------------------------------------------------------------------

    def _text(self, x: float, y: float, text: str, style: str = "", anchor: str = "start") -> str:
        return f'<text x="{x:.1f}" y="{y:.1f}" class="{style}" text-anchor="{anchor}">{escape(text)}</text>'

    def _bar(self, bar: Bar, y: float, high: float, paint: str, hint: str = "") -> str:
        left, wide = self.x(bar.begin), max(self.x(bar.end) - self.x(bar.begin), 1.2)
        box = f'<rect x="{left:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{high:.1f}" rx="2" {paint}>'
        return f"{box}<title>{escape(hint)}</title></rect>" if hint else f"{box[:-1]}/>"

    def _line(self, at: float, y: float, high: float, paint: str) -> str:
        x = self.x(at)
        return f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y:.1f}" y2="{y + high:.1f}" {paint}/>'

    def _axis(self) -> Iterator[str]:
        step = next(s for e in range(-3, 9) for m in (1, 2, 5) if (s := m * 10.0**e) * 14 >= self.ends)
        bottom = self.store + _STORE + 10
        for i in range(int(self.ends / step + 1e-9) + 1):
            at = i * step
            yield self._line(at, _TOP - 14, bottom - _TOP + 14, 'class="grid"')
            yield self._text(self.x(at), bottom + 14, f"{at:g} s", "axis", "middle")

    # ---- processes ---------------------------------------------------------------------------------

    def _lane(self, name: str, host: str) -> Iterator[str]:
        y, colour = self.top[name], self.colours[name]
        yield f'<rect x="{_LEFT}" y="{y}" width="{_WIDE - _LEFT - _RIGHT}" height="{_LANE}" fill="#f6f6f4"/>'
        yield self._text(_LEFT - 112, y + 15, name, "lane")
        yield self._text(_LEFT - 112, y + 28, host, "host")
        yield from self._host_faults(host, y)
        told = story(self.marks, name, self.ends)
        for bar in told.granted:
            paint = f'fill="#fff" stroke="{colour}" stroke-width="1.4" stroke-dasharray="3 2"'
            yield self._bar(bar, y + 7, _LANE - 14, paint, f"granted token {bar.text}, not yet reported")
        for bar in told.held:
            yield self._bar(bar, y + 6, _LANE - 12, f'fill="{colour}"', f"holds token {bar.text}")
        for bar in told.danger:
            yield self._bar(bar, y + 6, 6, 'fill="url(#danger)"', "in jeopardy: a renewal is overdue")
        yield from self._faults(name, y)
        for bar in told.held:
            if self.x(bar.end) - self.x(bar.begin) > 7 * len(bar.text) + 6:
                middle = (self.x(bar.begin) + self.x(bar.end)) / 2
                yield self._text(middle, y + _LANE / 2 + 5, bar.text, "token", "middle")

    def _host_faults(self, host: str, y: float) -> Iterator[str]:
        for mark in self.marks:
            if mark.where != host:
                continue
            bar = Bar(mark.at, min(mark.until or mark.at, self.healed))
            match mark.what:
                case "suspend":
                    bar = Bar(mark.at, mark.until or mark.at)
                    yield self._bar(bar, y, _LANE, 'fill="url(#sleep)"', "the host sleeps")
                case "cut":
                    yield self._bar(bar, y + _LANE - 3, 3, 'fill="#d62728"', f"cut off {mark.text}")
                case "frozen":
                    yield self._bar(bar, y, 3, 'fill="#8fb3d9"', "reads from a stale replica")
                case "reboot":
                    yield self._line(mark.at, y, _LANE, 'stroke="#000" stroke-width="2"')
                case _:
                    pass

    def _faults(self, name: str, y: float) -> Iterator[str]:
        crashed: float | None = None
        for mark in (*(m for m in self.marks if m.where == name), Mark(self.ends, name, "end")):
            x = self.x(mark.at)
            if crashed is not None and mark.what in ("restart", "end"):
                yield self._bar(Bar(crashed, mark.at), y, _LANE, 'fill="#bbb" fill-opacity=".75"', "crashed")
                crashed = None
            match mark.what:
                case "pause":
                    bar = Bar(mark.at, mark.until or mark.at)
                    yield self._bar(bar, y, _LANE, 'fill="url(#pause)"', f"stands still {mark.text}")
                case "crash":
                    crashed = mark.at
                    yield self._text(x, y + _LANE / 2 + 5, "✕", "flag", "middle")
                case "lost":
                    yield self._line(mark.at, y - 5, _LANE + 8, 'stroke="#b00020" stroke-width="1.6"')
                    yield self._text(x + 2, y - 2, f"lost: {mark.text.split()[-1]}", "flag")
                case "released":
                    yield f'<circle cx="{x:.1f}" cy="{y + _LANE - 5}" r="2.4" fill="#2a8f2a"/>'
                case "handed":
                    yield self._text(x, y - 2, "↷", "note", "middle")
                case "gave up":
                    yield f'<circle cx="{x:.1f}" cy="{y + _LANE - 5}" r="2.4" fill="#fff" stroke="#666"/>'
                case _:
                    pass

    # ---- the store ---------------------------------------------------------------------------------

    def _store(self) -> Iterator[str]:
        y = self.store
        yield f'<rect x="{_LEFT}" y="{y}" width="{_WIDE - _LEFT - _RIGHT}" height="{_STORE}" fill="#f1f1ee"/>'
        yield self._text(_LEFT - 112, y + 17, "store", "lane")
        yield self._text(_LEFT - 112, y + 31, "whose record stands", "host")
        yield self._text(_LEFT - 112, y + 52, "applied / conflict", "host")
        for bar in self._records():
            colour = self.colours.get(bar.text.split()[0], _OPERATOR)
            faint = ' fill-opacity=".35"' if bar.text.endswith("end)") else ""
            yield self._bar(bar, y + 6, 24, f'fill="{colour}"{faint}', bar.text)
            if self.x(bar.end) - self.x(bar.begin) > 26:
                middle = (self.x(bar.begin) + self.x(bar.end)) / 2
                yield self._text(middle, y + 22, bar.text.split()[0], "token", "middle")
        for mark in self.marks:
            if mark.where == "store":
                yield from self._store_mark(mark, y)

    def _records(self) -> Iterator[Bar]:
        """The record that stands, as stretches with the process that wrote it."""
        begin, whose = 0.0, ""
        for mark in (*(m for m in self.marks if m.where == "store"), Mark(self.ends, "store", "deleted")):
            writer, _, aim = mark.text.partition(" ")
            writer = writer.split("#")[0]
            match mark.what:
                case "applied" if aim.startswith(("claim", "renew")):
                    now = f"{writer} {aim}" if aim.endswith("end)") else writer
                case "applied" | "deleted":
                    now = ""
                case "broken":
                    now = "broken"
                case _:
                    continue
            if now != whose or mark.at == self.ends:
                if whose:
                    yield Bar(begin, mark.at, whose)
                begin, whose = mark.at, now

    def _store_mark(self, mark: Mark, y: float) -> Iterator[str]:
        bar, x = Bar(mark.at, min(mark.until or mark.at, self.healed)), self.x(mark.at)
        match mark.what:
            case "applied":
                yield self._line(mark.at, y + 38, 14, 'stroke="#2a8f2a" stroke-width="1.3"')
            case "conflict":
                yield self._line(mark.at, y + 43, 9, 'stroke="#d62728" stroke-width="1.1"')
            case "outage":
                yield self._bar(bar, y, _STORE, 'fill="#d62728" fill-opacity=".22"', f"no answer {mark.text}")
            case "slow":
                yield self._bar(bar, y, _STORE, 'fill="#ffb000" fill-opacity=".2"', f"slow {mark.text}")
            case "edited" | "deleted" | "broken" | "recreated":
                yield self._line(mark.at, y - 4, 36, 'stroke="#000" stroke-width="1.2"')
                up = 10 if x < self._flagged + 52 else 0  # Two words at one place stand above each other.
                self._flagged = x if not up else self._flagged
                yield self._text(x + 2, y - 3 - up, mark.what, "note")
            case _:
                pass

    def _world(self) -> Iterator[str]:
        for mark in self.marks:
            if mark.where == "world":
                colour = "#b00020" if mark.what == "violation" else "#2a8f2a"
                paint = f'stroke="{colour}" stroke-width="1.4" stroke-dasharray="5 3"'
                yield self._line(mark.at, _TOP - 20, self.store + _STORE - _TOP + 24, paint)
                anchor = "end" if self.x(mark.at) > _WIDE * 0.6 else "start"
                text = f"{mark.what}: {mark.text}" if mark.text else mark.what
                x = self.x(mark.at) + (-4 if anchor == "end" else 4)
                yield self._text(x, _TOP - 12, text, "flag" if mark.what == "violation" else "note", anchor)

    def _legend(self) -> Iterator[str]:
        x, y = float(_LEFT - 112), self.high - 22
        for paint, text in (
            ('fill="#0072b2"', "holds, by its own clock (token)"),
            ('fill="#fff" stroke="#0072b2" stroke-dasharray="3 2"', "granted, not yet reported"),
            ('fill="url(#danger)"', "in jeopardy"),
            ('fill="url(#pause)"', "stands still"),
            ('fill="url(#sleep)"', "host asleep"),
            ('fill="#bbb"', "crashed"),
            ('fill="#d62728"', "cut off (thin), store down"),
            ('fill="#ffb000" fill-opacity=".4"', "store slow"),
            ('fill="#2a8f2a"', "released (dot), applied (tick)"),
        ):
            yield f'<rect x="{x:.1f}" y="{y - 9}" width="16" height="11" rx="2" {paint}/>'
            yield self._text(x + 21, y, text, "note")
            x += 34 + 5.4 * len(text)


def _hatches() -> Iterator[str]:
    for name, wide, angle, ground, stripe in _HATCHES:
        yield (
            f'<pattern id="{name}" width="{wide}" height="{wide}" patternUnits="userSpaceOnUse" '
            f'patternTransform="rotate({angle})"><rect width="{wide}" height="{wide}" fill="{ground}" '
            f'fill-opacity=".6"/><rect width="2" height="{wide}" fill="{stripe}" fill-opacity=".55"/>'
            "</pattern>"
        )
