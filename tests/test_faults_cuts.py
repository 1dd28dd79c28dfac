"""Cut off from the store: the holder's own signal comes before the successor starts, always.

Two processes on one host: a holder that reaches the server by way of a proxy, and a waiter that reaches it
directly. Both write down instants of CLOCK_MONOTONIC, which they share. A cut falls at any phase of the
renewals. ``LEASES_LONG=1`` makes fifty cuts on each store.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from lab.clients import Remote
from lab.places import Place, every_place
from servers.proxy import Way

LONG = bool(os.environ.get("LEASES_LONG"))
ROUNDS = 10 if LONG else 1
PROMPT = {"ttl": 2.0}
# An answer that comes a second late is still awaited: an attempt lasts longer, and so the ttl does.
PATIENT = {"ttl": 4.0, "attempt": 1.5}
LATE_SECONDS = 1.0

pytestmark = [pytest.mark.waits, pytest.mark.timeout(900 if LONG else 120)]


@dataclass(frozen=True)
class Cut:
    """What one cut showed: seconds by which the holder's last signal came before its successor started."""

    how: str
    margin: float
    told: float


class Pair:
    """A holder behind a link of its own, and a waiter."""

    def __init__(self, place: Place, stack: ExitStack, how: str) -> None:
        self.place, self.how = place, how
        self.link, url = stack.enter_context(place.link())
        self.holder = stack.enter_context(Remote(url, f"holder-{how}"))
        self.waiter = stack.enter_context(Remote(place.url, f"waiter-{how}"))
        self.dice = random.Random(how)
        for remote in (self.holder, self.waiter):
            remote.hear()

    def cut(
        self, number: int, terms: dict[str, float], cut: Callable[[], None], mend: Callable[[], None]
    ) -> Cut:
        """Hold, wait, cut, and see who learned of it when; then mend it, and see that it stays so."""
        name = f"{self.how}/{number}"
        token = self.holder("hold", names=[name], terms=terms)["holds"][name]
        self.waiter("wait", names=[name], terms=terms)
        time.sleep(self.dice.random() * terms["ttl"] / 2)
        cut()
        began = time.monotonic()
        ended = self.holder.hear()["ended"][name]
        entered = self.waiter.hear()
        mend()
        assert ended["why"] == "expired" and ended["told"] is not None, ended
        assert entered["token"] > token
        self._stays(name, entered["token"])
        margin = entered["entered"] - max(ended["stood"], ended["told"], ended["woke"])
        return Cut(f"{self.how} {number}", margin, ended["told"] - began)

    def _stays(self, name: str, token: int) -> None:
        """What was under way when the link was cut arrives now, and changes nothing."""
        assert self.holder("release") == {"released": True}
        seen = self.holder("read", name=name)  # By the link: whatever was stuck in it has gone before.
        assert (seen["held"], seen["token"]) == (True, token), seen
        assert self.waiter("beat") == {"stands": {name: [True, token]}}
        assert self.waiter("release") == {"released": True}

    def frozen(self, number: int) -> Cut:
        """The server stands still for a ttl: when it goes on the waiter is ripe, and may be in at once."""
        thaw = threading.Timer(PROMPT["ttl"], self.place.thaw)

        def freeze() -> None:
            self.place.freeze()
            thaw.start()

        try:
            return self.cut(number, PROMPT, freeze, thaw.join)
        finally:
            self.place.thaw()

    def up(self, number: int) -> Cut:
        """Nothing of what the holder says arrives; it hears the store."""
        return self.cut(number, PROMPT, lambda: self.link.silence(Way.FORTH), self.link.heal)

    def down(self, number: int) -> Cut:
        """What the holder says arrives; it hears nothing."""
        return self.cut(number, PROMPT, lambda: self.link.silence(Way.BACK), self.link.heal)

    def both(self, number: int) -> Cut:
        """Neither hears the other."""
        return self.cut(number, PROMPT, self.link.silence, self.link.heal)

    def late(self, number: int) -> Cut:
        """The store's answers come a second late for a while, then nothing comes.

        They are awaited for longer. On a busy machine the lease may be lost before the cut, which is as good.
        """

        def cut() -> None:
            self.link.delay(LATE_SECONDS, Way.BACK)
            time.sleep(PATIENT["ttl"])
            self.link.silence()

        return self.cut(number, PATIENT, cut, self.link.heal)


@pytest.mark.safety
@every_place
def test_the_holders_own_signal_comes_before_the_successor_starts(place: Place) -> None:
    """S3, S4, S13, S24: frozen server, one direction silent or both, late answers: lost is told first."""
    found: list[Cut] = []
    with ExitStack() as stack:
        pairs = [Pair(place, stack, how) for how in ("up", "down", "both", "late")]
        frozen = Pair(place, stack, "frozen") if place.can_freeze else None
        with ThreadPoolExecutor() as pool:
            for number in range(ROUNDS):
                tasks = [pool.submit(getattr(pair, pair.how), number) for pair in pairs]
                found += [task.result() for task in tasks]
        if frozen is not None:
            found += [frozen.frozen(number) for number in range(ROUNDS)]
    print(f"\n{place.name}: {len(found)} cuts; least margin {min(cut.margin for cut in found) * 1e3:.0f} ms")
    for cut in sorted(found, key=lambda cut: cut.margin)[:5]:
        print(f"  {cut.how}: {cut.margin * 1e3:.0f} ms; lost was told {cut.told:.2f} s after the cut")
    assert [cut for cut in found if cut.margin <= 0] == []
