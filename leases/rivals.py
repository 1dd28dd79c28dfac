"""Priorities: how a preferred candidate gets the leadership from one that is less so.

Whoever stands by and sees a leader of lower priority makes a bid: it holds a lock beside the one that is led,
which shows its name and priority, as long as that is so. Whoever leads and sees a bid of higher priority
hands over to the bidder. Only one can bid at a time, but the next does as soon as the first leads, and so in
the end the highest does. It is all made of locks, and nothing else has to be trusted.
"""

# pyright: reportPrivateUsage=false
# Rivals look into the lock for the store.

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from leases import threads
from leases.campaign import Part
from leases.contest import take_part
from leases.herald import Herald
from leases.keeper import report
from leases.manifesto import Callbacks, Manifesto
from leases.observer import Leader, Lookout

if TYPE_CHECKING:
    from leases.lock import Lock


class Rivals:
    """What one candidate does for its priority, and for that of others.

    Args:
        priority: its own.
        bids: the lock beside the one that is led.
        part: the candidate.
    """

    def __init__(self, priority: int, bids: Lock, part: Part) -> None:
        self._part, self._priority, self._lock = part, priority, bids
        connect = part.manifesto.lock._connect
        self._mutex = threading.Lock()
        self._aside = True  # until it campaigns
        self._bid: Part | None = None
        self._leader: Leader | None = None
        self._bidder: Leader | None = None
        self._leaders = Lookout(connect, part.name, self._leads)
        # A bid that has never been seen to be renewed may be that of the dead.
        self._bids = Lookout(connect, bids.name, self._bids_now, wary=True)

    def consider(self) -> None:
        """Hand over, if this one leads and a bidder is to be preferred."""
        reign, bidder = self._part.reign, self._bidder
        if reign is None or bidder is None or reign.asked:
            return
        if bidder.priority is not None and bidder.priority > self._priority:
            reign.ask(bidder.holder)

    def close(self) -> None:
        """Look no more, and withdraw the bid."""
        self._leaders.close()
        self._bids.close()
        self.stand_aside(aside=True)

    def stand_aside(self, *, aside: bool) -> None:
        """Make no bid, or make one again if there is reason to."""
        with self._mutex:
            self._aside = aside
            self._review()

    def _leads(self, leader: Leader | None) -> None:
        with self._mutex:
            self._leader = leader
            self._review()

    def _review(self) -> None:
        """Bid while somebody of lower priority leads."""
        stated = None if self._leader is None else self._leader.priority
        if stated is None or stated >= self._priority or self._aside or self._part.stopping:
            bid, self._bid = self._bid, None
            if bid is not None:
                bid.stop()
        elif self._bid is None or self._bid.ended.is_open:
            self._bid = _bid(self._lock)

    def _bids_now(self, bidder: Leader | None) -> None:
        self._bidder = bidder
        self.consider()


def _bid(lock: Lock) -> Part:
    """Hold the lock beside, in a thread of its own, until the part is told to stop."""
    bell = threads.Bell()
    part = Part(Manifesto(lock, Callbacks(), lock.terms.ttl), Herald(), bell, threading.get_ident)

    def run() -> None:
        try:
            take_part(part, bell, None)
        except BaseException as error:
            report("a bid for %r failed", lock.name, error)
        finally:
            part.ended.open()

    threading.Thread(target=run, name=f"leases-bid-{lock.name}", daemon=True).start()
    return part
