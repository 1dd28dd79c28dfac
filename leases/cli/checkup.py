"""What `leases doctor` finds out by itself, beside what the store's own examination says.

The formulas are those of the protocol, with its worst cases: a waiter that had no hint, and a clock that is
as slow as `Terms.rate` allows. A test runs them against the simulator.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from leases.clock import boot_id, counts_sleep, time_offsets
from leases.contract import Finding, Verdict
from leases.terms import look_after

if TYPE_CHECKING:
    from leases.contract import Backend, Traits
    from leases.terms import Terms

_READS: Final = 5
_NAME: Final = "leases-doctor"  # never written


class RoundTrip(NamedTuple):
    """How long a read took, in seconds: half of them at most the median, none more than the worst."""

    median: float
    worst: float


class Failover(NamedTuple):
    """How soon another may begin after an event, as a formula and in seconds.

    Attributes:
        event: what happened: a crash, a release, a cut of the way to the store.
        usual: the formula for a waiter that hears of every change.
        seconds: that formula's value.
        worst: the formula where hints are lost and a clock is slow.
        at_most: its value.
        text: what it means, for people.
    """

    event: str
    usual: str
    seconds: float
    worst: str
    at_most: float
    text: str


def measure(backend: Backend, timeout: float, clock: Callable[[], float] = time.perf_counter) -> RoundTrip:
    """Read a few times.

    Raises:
        StoreError: it cannot be read.
    """
    backend.read(_NAME, timeout)  # The first opens the connection.
    taken: list[float] = []
    for _ in range(_READS):
        began = clock()
        backend.read(_NAME, timeout)
        taken.append(clock() - began)
    return RoundTrip(statistics.median(taken), max(taken))


def of_round_trip(trip: RoundTrip, terms: Terms) -> Finding:
    """Whether a request is answered long before it is given up."""
    text = f"{_short(trip.median)}, {_short(trip.worst)} at most in {_READS} reads"
    fits = f"an attempt is given up after {terms.attempt:.3g} s"
    enough = 4 * trip.worst * terms.ttl / terms.attempt
    longer = f"use a ttl of {enough:.2g} s or more, or a store that is nearer"
    if terms.attempt >= 5:  # No ttl makes it longer.
        longer = "use a store that is nearer, or find out what makes it slow"
    if trip.worst >= terms.attempt:
        return Finding("round trip", Verdict.BAD, f"{text}; {fits}, so leases would be lost", longer)
    if trip.worst >= terms.attempt / 4:
        return Finding("round trip", Verdict.DOUBTFUL, f"{text}; {fits}, so there is little to spare", longer)
    return Finding("round trip", Verdict.GOOD, f"{text}; {fits}")


def of_ttl(terms: Terms, traits: Traits) -> Finding:
    """Whether the store can keep a ttl, and what it means for a holder."""
    if terms.ttl < traits.least_ttl:
        return Finding(
            "ttl",
            Verdict.BAD,
            f"{terms.ttl:g} s is below the {traits.least_ttl:g} s that {traits.store} can keep",
            f"use {traits.least_ttl:g} or more",
        )
    return Finding(
        "ttl",
        Verdict.GOOD,
        f"{terms.ttl:g} s; a holder renews after {terms.renew:.3g} s and stops at {terms.hold:.4g} s",
    )


def of_clocks(traits: Traits) -> Iterator[Finding]:
    """Which clocks holders and waiters count by here, and whether this boot can be told from others."""
    if counts_sleep:
        yield Finding(
            "clocks", Verdict.GOOD, "a holder counts the time in which this host sleeps, a waiter does not"
        )
    else:
        yield Finding(
            "clocks",
            Verdict.DOUBTFUL,
            "this system has no clock that counts the time in which the host sleeps",
            "keep hosts with leases from sleeping, or fence what they write by the token",
        )
    yield _of_boot(traits)


def _of_boot(traits: Traits) -> Finding:
    if boot_id() is not None:
        use = (
            "a dead holder's record is free exactly at its ttl"
            if traits.local
            else "not needed by this store"
        )
        return Finding("boot", Verdict.GOOD, f"its identity can be read, in the host's own time: {use}")
    try:
        why = "this process is in a time namespace of its own" if any(time_offsets()) else ""
    except (OSError, ValueError):
        why = ""
    why = why or "the system does not tell its identity"
    if not traits.local:
        return Finding("boot", Verdict.GOOD, f"{why}; this store does not need it")
    advice = "run outside of that namespace, if newcomers are to be faster"
    return Finding("boot", Verdict.DOUBTFUL, f"{why}, so newcomers watch a record for its whole ttl", advice)


def of_traits(traits: Traits) -> Iterator[Finding]:
    """What the store promises, in words."""
    good = Verdict.GOOD
    yield Finding("token", good, traits.token_source)
    left = (
        "deletes the record"
        if traits.release_deletes
        else "leaves a free record, which keeps the token rising"
    )
    yield Finding("release", good, left)
    heard = "by a watch" if traits.watches else "by looking again and again"
    yield Finding("waiting", good, f"a waiter hears of a release {heard}")
    yield Finding("failover", good, traits.failover)
    yield Finding("restore", good, traits.restore)


def failovers(terms: Terms, traits: Traits, trip: float, *, local: bool) -> Iterator[Failover]:
    """How soon another may begin, after each way in which a tenure can end.

    Args:
        terms: the durations.
        traits: the store's.
        trip: seconds of a round trip.
        local: records can be timed by the boot's clock, without watching them.
    """
    ttl, slow = terms.ttl, 1 - terms.rate
    look = look_after(ttl, watches=traits.watches)
    look_formula = "ttl/2" if traits.watches else "ttl/8" if ttl <= 8 else "1 s"
    trips, two = "2 round trips", 2 * trip
    usual, most = f"ttl + {trips}", f"(ttl + {look_formula}) / {slow:g} + {trips}"
    crash = usual, ttl + two, most, (ttl + look) / slow + two
    if local:  # All clocks are one clock, and the record says when it was written.
        crash = usual, ttl + two, usual, ttl + two
    newcomer = "" if local else "; who comes later watches a whole ttl, too"
    yield Failover("crash", *crash, f"from its last renewal on{newcomer}")
    yield Failover(
        "release",
        trips,
        two,
        f"{look_formula} / {slow:g} + {trips}",
        look / slow + two,
        "from the release on; at most where the hint is lost",
    )
    yield Failover(
        "cut", *crash, f"as after a crash; the holder itself stops {terms.hold:.4g} s after its last renewal"
    )


def of_failover(failover: Failover) -> Finding:
    """The same as a line."""
    usual = f"{failover.usual} = {_short(failover.seconds)}"
    worst = (
        "" if failover.worst == failover.usual else f", at most {failover.worst} = {_short(failover.at_most)}"
    )
    return Finding(f"after a {failover.event}", Verdict.GOOD, f"{usual}{worst}, {failover.text}")


def _short(seconds: float) -> str:
    return f"{seconds * 1000:.2g} ms" if seconds < 0.1 else f"{seconds:.3g} s"
