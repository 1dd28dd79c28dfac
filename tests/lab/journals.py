"""The journal of an election, and what must be true of it whatever was done to those who took part.

What counts as inside `work`: from the line "in" until the last instant at which the work saw its lease stand,
as it does before every step. That is the line "out", unless the process stood still then: it did nothing
meanwhile, and looked before it did anything after. One that was killed is inside until it was dead. Whoever
works holds a lock of the kernel's besides, which must have been free unless its owner stood still.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

ENDS = ("stop", "resign", "transfer")  # orders by which a tenure ends
AFTER_A_STOP = 0.5  # seconds within which a process that goes on has found out what became of its lease


class Line(NamedTuple):
    """One line; `at` is of CLOCK_BOOTTIME."""

    at: float
    who: str
    pid: int
    what: str
    token: int | None
    more: dict[str, Any]


@dataclass
class Blow:
    """A process was stopped, and went on at `until`; or it was killed, and was dead at `at`."""

    pid: int
    at: float
    until: float = math.inf
    killed: bool = False


class Stay(NamedTuple):
    """One tenure's work, as it is judged: inside from `entered` to `left`."""

    who: str
    pid: int
    token: int
    alone: bool
    entered: float
    left: float
    gone: float  # when it let go of the kernel's lock, at the latest


class Journal:
    """A journal that is read as it grows."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.lines: list[Line] = []
        self._read = 0

    def news(self) -> list[Line]:
        """All lines so far."""
        if self.file.exists():
            with self.file.open("rb") as file:
                file.seek(self._read)
                text = file.read()
            text = text[: text.rfind(b"\n") + 1]  # A line is one write, which may be seen half done.
            self._read += len(text)
            self.lines += [_line(line) for line in text.splitlines()]
        return self.lines


def _line(text: bytes) -> Line:
    more = json.loads(text)
    at, who, pid, what, token = (more.pop(key) for key in ("at", "who", "pid", "what", "token"))
    return Line(at, who, pid, what, token, more)


def stays(lines: Iterable[Line], blows: list[Blow]) -> list[Stay]:
    """The work of every tenure, in the order in which it began."""
    begun: dict[tuple[int, int], Line] = {}
    done: dict[tuple[int, int], Line] = {}
    found: list[Stay] = []
    for line in lines:
        if line.what in ("in", "out") and line.token is not None:
            (begun if line.what == "in" else done)[line.pid, line.token] = line
    for (pid, token), line in begun.items():
        out = done.get((pid, token))
        if out is None:
            gone = min((blow.at for blow in blows if blow.killed and blow.pid == pid), default=math.inf)
            left = min([gone, *(b.at for b in blows if b.pid == pid and b.until > gone - AFTER_A_STOP)])
        else:
            gone, left = out.at, out.more["stood"]
        found.append(Stay(line.who, pid, token, line.more["alone"], line.at, left, gone))
    return sorted(found, key=lambda stay: stay.entered)


def overlaps(lines: Iterable[Line], blows: list[Blow]) -> list[str]:
    """One sentence for every two who were inside at once, and for every token that did not rise."""
    lines = list(lines)
    wrong = [f"{line}: released under its work" for line in lines if _early(line)]
    before: list[Stay] = []
    for stay in stays(lines, blows):
        for other in before:
            if other.left > stay.entered:
                wrong.append(f"{stay} came {other.left - stay.entered:.6f} s before {other} had left")
            if other.token >= stay.token:
                wrong.append(f"the token of {stay} is not above that of {other}")
        stopped = any(other.left < stay.entered <= other.gone for other in before)
        if not stay.alone and not stopped:
            wrong.append(f"{stay} was not alone, by the kernel's word")
        before.append(stay)
    return wrong


def _early(line: Line) -> bool:
    return line.what == "out" and line.more["reason"] == "released"


def disorder(lines: Iterable[Line], blows: list[Blow]) -> list[str]:
    """One sentence for every callback that came twice, too late, out of order, or not at all."""
    by_process: defaultdict[int, list[Line]] = defaultdict(list)
    for line in lines:
        by_process[line.pid].append(line)
    wrong = [fault for mine in by_process.values() for fault in _disorder(mine)]
    for pid, mine in by_process.items():
        wrong += _untold(mine, [blow for blow in blows if blow.pid == pid])
    return wrong


def _disorder(lines: list[Line]) -> Iterator[str]:
    """What is wrong with the callbacks of one process, and with its work, which goes on beside them."""
    told: Line | None = None  # of an election whose loss was not told
    work: Line | None = None
    highest = seen = -1
    for line in lines:
        match line.what:
            case "elected":
                if told is not None:
                    yield f"{line}: elected again, and the end of {told} was not told"
                if (line.token or 0) <= highest:
                    yield f"{line}: elected again with a token that is not above {highest}"
                told, highest = line, line.token or 0
            case "jeopardy" | "lost":
                if told is None or line.token != told.token:
                    yield f"{line}: told of a lease that is not the last, or is lost"
                told = None if line.what == "lost" else told
            case "in":
                if work is not None:
                    yield f"{line}: work began beside {work}"
                work = line
            case "out":
                work = None
            case "leader" if line.token is not None:
                if line.token < seen:
                    yield f"{line}: a leader of the past, after token {seen}"
                seen = line.token
            case _:
                pass


def _untold(lines: list[Line], blows: list[Blow]) -> Iterator[str]:
    """What has no counterpart, unless the process was killed soon after."""
    death = min((blow.at for blow in blows if blow.killed), default=math.inf)
    told = {(line.what, line.token): line for line in lines}
    for line in lines:
        if line.at > death - AFTER_A_STOP:
            continue
        for what in _counterparts(line, ("in", line.token) in told):
            if (what, line.token) not in told and not (what != "elected" and death < math.inf):
                lost = told.get(("lost", line.token))
                if what != "in" or lost is None or not _forestalled(line, lost, lines, blows):
                    yield f"{line}: without {what}"
        if line.what == "ending" and not line.more["held"]:
            lost = told.get(("lost", line.token))
            if lost is None or lost.more["reason"] == "released":
                yield f"{line}: the loss that ended it was not told"


def _counterparts(line: Line, worked: bool) -> Iterator[str]:
    """What else there has to be of the same tenure."""
    match line.what:
        case "elected":
            yield from ("in", "lost")
        case "in":
            yield from ("elected", "out")
        case "lost":
            yield "elected"
            if worked:
                yield "out"
        case _:
            pass


def _forestalled(elected: Line, lost: Line, lines: list[Line], blows: list[Blow]) -> bool:
    """Whether the end came before the work could begin: work that is to stop already is not called."""
    before = max(
        (line.at for line in lines if line.what == "lost" and line.at < elected.at), default=-math.inf
    )
    ordered = any(
        before < line.at <= lost.at for line in lines if line.what == "told" and line.more["order"] in ENDS
    )
    stood = any(blow.at <= lost.at and blow.until >= elected.at for blow in blows if not blow.killed)
    return ordered or stood
