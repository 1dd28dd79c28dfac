"""The small worlds that the explorer searches: what may happen in each, and how much of it.

A world is bounded by how many swaps are sent in it and how many letters are under way at once, never by time:
the search ends when nothing new can happen. Every world is aimed at some of the rules.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

from leases.testing.cells import Kind


@dataclass(frozen=True, slots=True)
class World:
    """Two contenders for one name in one store, and what may befall them.

    Each side is never stepped for as long as the search likes: that is a pause.

    Attributes:
        name: what it is called on the command line.
        aim: what it is there to try.
        kind: whose rules the store follows.
        swaps: how many swaps may be sent in all.
        letters: how many requests and replies of one side may be under way at once.
        ttls: the ttl of each side, in units of its clock.
        rates: how many units a clock may advance in one tick; V is the most that these allow.
        renew: units from a committed send to the next renewal.
        together: both sides live on one host and share its clocks.
        suspends: a host may sleep: its waiting clock stands, its holding clock goes on.
        loses: letters may be lost, requests as well as replies.
        errors: a side may be told that nobody knows, while its request is still under way.
        busy: a side may be told that its request was surely not executed.
        doubles: how many requests the network may double.
        stale: how many versions back a read may look.
        slow_reads: a read may be under way for a while; elsewhere it is answered before all else.
        hints: a watch may show any version that ever stood there, at any time.
        tells: a conflict says what stands there instead; where it does not, a read has to find out.
        releases: the work of a side may stop at any moment.
        lingers: a release may leave a last record that keeps the others out for so long; 0 is never.
        abandons: a side may give up waiting.
        crashes: how often a process may die and come back under the same holder's name, knowing nothing.
        heirs: how often the next claim of the same process may take over from one that is over.
        again: how often a process may acquire once more after its claim has come to its end.
        stands_back: a side that seeks may be told to claim nothing, and to go ahead.
        falters: how often a side may be told to renew no more; it may be told to go on after all.
        vanishes: how often a stranger may remove a held record that the other side has seen.
        edits: how often a stranger may edit the object, leaving the claim in it as it is.
        breaks: how often somebody may break the lock: a held record that belongs to no claim.
        held: the first side holds when the search begins; the swap it took is not counted.
        plain: the second side is a contender and no more: it neither stops its work nor fails, and has one
            letter under way at a time.
        live: the first side is live: its letters arrive within the tick, and it does what is due.
    """

    name: str
    aim: str
    kind: Kind = Kind.ETCD
    swaps: int = 4
    letters: int = 2
    ttls: tuple[int, int] = (4, 4)
    rates: tuple[int, ...] = (1, 2)
    renew: int = 1
    together: bool = False
    suspends: bool = False
    loses: bool = True
    errors: bool = False
    busy: bool = False
    doubles: int = 0
    stale: int = 0
    slow_reads: bool = False
    hints: bool = False
    tells: bool = True
    releases: bool = True
    lingers: int = 0
    abandons: bool = False
    crashes: int = 0
    heirs: int = 0
    again: int = 0
    falters: int = 0
    stands_back: bool = False
    vanishes: int = 0
    edits: int = 0
    breaks: int = 0
    held: bool = False
    plain: bool = True
    live: bool = False


def _even(name: str, aim: str, kind: Kind = Kind.ETCD, *, ttl: int = 2, **bounds: Any) -> World:
    """A world in which all clocks go alike, so that V may be the ttl and the numbers stay small."""
    given: dict[str, Any] = {"rates": (1,), "ttls": (ttl, ttl), **bounds}
    return World(name, aim, kind, **given)


_WORLDS: Final = (
    World(
        "takeover",
        "deadline, observation and rate: the first legal instant of a takeover",
        swaps=3,
        letters=1,
        plain=False,
        slow_reads=True,
    ),
    World("rates", "the same, with two letters of each side under way", swaps=3, plain=False),
    _even(
        "silent",
        "a store where writing the same bytes again does not show",
        Kind.CONSUL,
        held=True,
        swaps=3,
        releases=False,
    ),
    _even("late", "answers that come after the machine gave them up", ttl=4, held=True, swaps=3),
    _even("release", "releases that meet renewals and takeovers", held=True, swaps=4, letters=2),
    _even(
        "counter",
        "a store where release leaves a record and the token is counted up",
        Kind.ZOOKEEPER,
        swaps=3,
        plain=False,
    ),
    _even(
        "untold",
        "conflicts that do not say what stands there",
        Kind.KUBERNETES,
        held=True,
        swaps=3,
        tells=False,
    ),
    _even("unknown", "nobody knows whether it was applied", Kind.CONSUL, swaps=3, errors=True),
    _even("doubled", "requests that the network doubles", held=True, swaps=3, doubles=1),
    _even("doubled-create", "the same, from the first request on", swaps=2, doubles=1),
    _even(
        "busy",
        "requests that were surely not executed, and claims that are given up",
        swaps=3,
        busy=True,
        abandons=True,
    ),
    _even("restart", "a process dies and comes back under the same name", held=True, swaps=3, crashes=1),
    _even("heirs", "the next claim of the same process", swaps=3, heirs=1),
    _even(
        "counted-heirs",
        "the same, where release leaves a record",
        Kind.ZOOKEEPER,
        held=True,
        swaps=3,
        heirs=1,
    ),
    _even(
        "vanish",
        "a held record that a stranger removed",
        Kind.ZOOKEEPER,
        held=True,
        swaps=3,
        vanishes=1,
        releases=False,
    ),
    _even(
        "local",
        "instants of a host that both share, and its sleep",
        Kind.MEMORY,
        ttl=3,
        swaps=3,
        letters=1,
        together=True,
        suspends=True,
        again=1,
    ),
    _even("stale", "reads that look back", Kind.KUBERNETES, swaps=3, letters=2, stale=2),
    _even("unordered", "the same, where versions have no order", Kind.UNORDERED, swaps=3, letters=2, stale=2),
    _even("sleep", "a host that sleeps, and a store on the network", held=True, swaps=3, suspends=True),
    _even("ttls", "contenders with different ttls", swaps=3, ttls=(2, 4)),
    _even("break", "a broken lock", held=True, swaps=3, breaks=1),
    _even(
        "falter",
        "leases that are left to run out, or renewed after all",
        ttl=3,
        held=True,
        swaps=3,
        letters=2,
        falters=1,
    ),
    _even(
        "stand-back",
        "claims that stand back, for who wants any one of several locks",
        swaps=3,
        letters=2,
        stands_back=True,
        abandons=True,
    ),
    _even("linger", "a last record that keeps others out", held=True, swaps=3, lingers=3),
    _even(
        "live",
        "no old news deposes a live holder",
        ttl=3,
        held=True,
        swaps=3,
        renew=2,
        hints=True,
        stale=1,
        releases=False,
        live=True,
    ),
    _even(
        "live-edited",
        "the same, while the object is edited and requests are doubled",
        Kind.KUBERNETES,
        ttl=3,
        held=True,
        swaps=3,
        letters=3,
        renew=2,
        doubles=1,
        edits=1,
        releases=False,
        live=True,
    ),
    _even(
        "live-unordered",
        "the same, where versions have no order",
        Kind.UNORDERED,
        ttl=3,
        held=True,
        swaps=3,
        renew=2,
        hints=True,
        stale=1,
        releases=False,
        live=True,
    ),
)

WORLDS: Final = {world.name: world for world in _WORLDS}
DEEP: Final = {world.name: replace(world, swaps=world.swaps + 1) for world in _WORLDS}
