"""Electors behind a link that breaks at the worst moments, on every real server: never two at work at once.

One takes part by way of a proxy, its rival reaches the server directly; each is a process, and both write
one journal. The faults are those of `test_dual_leaders.py`, on the wire; what client-go does there shows
`test_faults_client_go.py`. ``LEASES_LONG=1`` does it all ten times.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Final, TypeVar

import pytest

from lab.elections import LOOK_SECONDS, Voter, now, settings
from lab.journals import Journal, Line, disorder, overlaps
from lab.places import Place, every_place
from leases import connect
from servers.proxy import Way

T = TypeVar("T")

ROUNDS = 10 if os.environ.get("LEASES_LONG") else 1
TTL: Final = 2.0
PATIENT: Final = {"ttl": 4.0, "attempt": 1.5}  # so that an answer may be late
LATE_SECONDS: Final = 0.6 * PATIENT["attempt"]  # and a busy machine make it later
HOLD_SECONDS: Final = 0.75 * PATIENT["ttl"]
DAWDLE_SECONDS: Final = 0.4  # a work that stops in time
HUNG_SECONDS: Final = 30.0  # one that does not
SOON: Final = 30.0


class Pair:
    """Two electors of one name, one of them behind a link of its own.

    Attributes:
        far, near: who is behind the link, and who is not.
        link: that link.
    """

    def __init__(
        self,
        place: Place,
        stack: ExitStack,
        folder: Path,
        name: str,
        terms: dict[str, float] | None = None,
        dawdle: float = 0.0,
    ) -> None:
        self.name, self.dice = name, random.Random(name)
        self.journal = Journal(folder / f"{name}.journal")
        self.store = stack.enter_context(connect(place.url))
        self.link, url = stack.enter_context(place.link())
        how = settings(folder, name, terms or {"ttl": TTL}, dawdle)
        self.far, self.near = Voter(url, f"{name}-far", how), Voter(place.url, f"{name}-near", how)
        for voter in (self.far, self.near):
            stack.callback(voter.remote.close)

    def begin(self) -> Line:
        """Both take part, and the far one leads, which the other has seen."""
        self.near.connect()  # That it starts at once afterwards, or on a busy machine all is over before.
        self.far.begin()
        self.line("in", self.far)
        self.near.begin()
        self.line("leader", self.near, above=0)
        return [line for line in self.journal.lines if line.what == "in" and line.pid == self.far.pid][-1]

    def line(self, what: str, *voters: Voter, above: int = -1) -> Line:
        """The first such line of any of them with a token above that, once it is written."""
        pids = {voter.pid for voter in voters}

        def seen() -> Line | None:
            lines = [line for line in self.journal.news() if line.what == what and line.pid in pids]
            return next((line for line in lines if (line.token or 0) > above), None)

        return eventually(seen)

    def renewal(self) -> None:
        """Return as soon as the store shows another renewal."""

        def beat() -> str | None:
            claim = self.store.hub.backend.read(self.name, SOON).claim
            return None if claim is None else claim.beat

        before = beat()
        eventually(lambda: beat() != before)

    def follows(self, before: Line, *voters: Voter) -> Line:
        """The next work, that of the near one if no others are named: the far one's had ended by then."""
        assert before.token is not None
        came = self.line("in", *(voters or [self.near]), above=before.token)
        left = self.line("out", self.far, above=before.token - 1)
        assert left.more["stood"] < came.at and came.more["alone"], (left, came)
        return came

    def end(self, came: Line) -> float:
        """All is well again: who leads goes on, until both are told to stop; for how long nobody was at work.

        On a busy machine it may lose its lease by not renewing it in time, but not to anybody.
        """
        self.link.heal()
        time.sleep(TTL / 4)  # What was stuck has arrived.
        leader = self.near if came.pid == self.near.pid else self.far
        seen = self.store.status(self.name), leader.remote("look")["leads"]
        lost = [line for line in self.journal.news() if line.what == "lost" and line.token == came.token]
        if not lost:
            assert seen[1] and (seen[0].held, seen[0].token) == (True, came.token), seen
        assert [line.more["reason"] for line in lost] in ([], ["expired"])
        for voter in (self.far, self.near):
            assert voter.remote("stop") == {"stopped": True}
        lines = self.journal.news()
        assert overlaps(lines, []) + disorder(lines, []) == []
        left = max(line.at for line in lines if line.what == "out" and line.at < came.at)
        return came.at - left


def eventually(look: Callable[[], T | None]) -> T:
    """What is seen as soon as something is."""
    until = time.monotonic() + SOON
    while not (seen := look()):
        assert time.monotonic() < until, "it did not come"
        time.sleep(LOOK_SECONDS)
    return seen


def slow_reply_then_partition(pair: Pair) -> Line:
    """A renewal is applied at once, its answer comes late, then nothing: it counts from its send."""
    led = pair.begin()
    pair.link.delay(LATE_SECONDS, Way.BACK)
    pair.renewal()  # One whose answer may have been on its way before.
    pair.renewal()
    sent = now()
    time.sleep(LATE_SECONDS + 0.1)
    pair.link.silence()
    came = pair.follows(led)
    ending = pair.line("ending", pair.far)
    assert not ending.more["held"] and ending.more["deadline"] <= sent + HOLD_SECONDS
    assert ending.more["deadline"] > sent + HOLD_SECONDS - LATE_SECONDS, "that answer was heard"
    return came


def partition_while_the_work_stops(pair: Pair) -> Line:
    """It is told to resign while the store is silent; the work takes a while, and then its release hangs."""
    led = pair.begin()
    pair.link.silence()
    pair.far.remote.order("resign")
    came = pair.follows(led)
    ending, left = pair.line("ending", pair.far), pair.line("out", pair.far)
    assert ending.more["held"] and left.at > ending.at + DAWDLE_SECONDS
    assert came.at > led.at + TTL, "nobody believes a release that did not arrive"
    pair.far.remote.hear()
    return came


def partition_while_the_work_hangs(pair: Pair) -> Line:
    """It is told to resign while the store is silent, and its work goes on: the lease runs out."""
    led = pair.begin()
    pair.link.silence()
    pair.far.remote.order("resign")
    came = pair.follows(led)
    lost = pair.line("lost", pair.far)
    assert lost.at < came.at and lost.more["reason"] == "expired"
    pair.far.remote.hear()
    return came


def link_heals_during_the_release(pair: Pair) -> Line:
    """It lets go for its rival while the link is silent for a moment, one way or both, at any phase."""
    led = pair.begin()
    time.sleep(pair.dice.random() * TTL / 3)
    pair.link.silence(*pair.dice.choice([(Way.FORTH,), (Way.BACK,), (Way.FORTH, Way.BACK)]))
    pair.far.remote.order("transfer", to=pair.near.who)
    time.sleep(pair.dice.uniform(0.02, TTL / 2))
    pair.link.heal()
    came = pair.follows(led, pair.near, pair.far)
    pair.far.remote.hear()
    return came


FAULTS: Final = (
    (slow_reply_then_partition, PATIENT, 0.0),
    (partition_while_the_work_stops, None, DAWDLE_SECONDS),
    (partition_while_the_work_hangs, None, HUNG_SECONDS),
    (link_heals_during_the_release, None, 0.0),
)


@pytest.mark.safety
@pytest.mark.timeout(900 if ROUNDS > 1 else 120)
@every_place
def test_never_two_lead_whenever_the_link_breaks(place: Place, tmp_path: Path) -> None:
    """S4, S24, S40, S41: who led has stopped its work before its rival begins, and frees nothing of it."""
    margins: dict[str, list[float]] = {}

    def run(
        number: int, fault: Callable[[Pair], Line], terms: dict[str, float] | None, dawdle: float
    ) -> None:
        name = fault.__name__.replace("_", "-")
        with ExitStack() as stack:
            pair = Pair(place, stack, tmp_path, f"{name}-{number}", terms, dawdle)
            margins.setdefault(name, []).append(pair.end(fault(pair)))

    with ThreadPoolExecutor() as pool:
        for number in range(ROUNDS):
            tasks = [pool.submit(run, number, *fault) for fault in FAULTS]
            for task in tasks:
                task.result()
    print(f"\n{place.name}: seconds from the end of the work to the beginning of the rival's, at least:")
    print("  " + ", ".join(f"{name} {min(found):.3f}" for name, found in sorted(margins.items())))
