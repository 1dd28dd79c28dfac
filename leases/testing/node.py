"""What one side of a small world is at one instant, and which instants are the same to everybody.

All times are relative to the side's own clocks, which read NOW in every state; a tick moves the times
instead. Times that have passed are all alike and are made equal, and so is all else that cannot make a
difference any more: that is what lets the search come to an end.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from leases.contract import Slot
from leases.testing.catalog import NOW, Catalog
from leases.testing.small_worlds import World

OURS: Final = frozenset({"granted", "held", "jeopardy"})
OVER: Final = frozenset({"lost", "leaving", "chasing", "done"})

# What the checker knows of a tenure; a new claim starts at NONE.
NONE, GRANTED, CONFIRMED, LOST, RELEASED = range(5)


class Letter(NamedTuple):
    """A request or its reply under way. Slots and claims are numbers of the catalog.

    A mute letter is a request whose reply nobody waits for; an echo was doubled by the network.
    """

    request: int
    swap: bool
    seen: int
    claim: int
    reply: tuple[str, int] | None = None
    mute: bool = False
    echo: bool = False

    @property
    def what(self) -> str:
        """Which request it is, in words."""
        return f"{'swap' if self.swap else 'read'} {self.request or ''}".strip()


class Node(NamedTuple):
    """One side at one instant. `state` is the machine's snapshot, tidied; None where no process runs."""

    state: tuple[Any, ...] | None
    life: int = 0
    drawn: int = 0
    ledger: int = 0
    tenure: int = NONE
    falters: bool = False  # it was told to renew no more
    stands_back: bool = False  # it was told to claim nothing
    mail: tuple[Letter, ...] = ()
    sends: tuple[tuple[str, str, float], ...] = ()  # (claim id, beat, sent) that may still carry a belief
    sighted: tuple[tuple[int, float], ...] = ()  # (slot, first seen) of what was seen and may still stand
    landed: frozenset[str] = frozenset()  # the beats of its own writes that were committed


class Normal:
    """Makes nodes older, and makes nodes equal where nobody could tell them apart."""

    def __init__(
        self, world: World, catalog: Catalog, machinery: Any, terms: Any, boot: str | None, *, exact: bool
    ) -> None:
        self._world, self._catalog, self._terms, self._boot = world, catalog, terms, boot
        self._exact = exact
        self._traits = world.kind.rules.traits
        self.index: dict[str, int] = {name: i for i, name in enumerate(machinery.Machine._STATE)}
        if set(self.index) != _FIELDS:
            odd = sorted(set(self.index) ^ _FIELDS)
            raise AssertionError(f"the machine's state has changed: teach the explorer about {odd}")

    def frozen(self, state: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
        """A snapshot as something that can be looked up: slots and claims by their numbers."""
        if state is None:
            return None
        at, number = self.index, self._catalog.slot
        frozen = list(state)
        frozen[at["phase"]] = state[at["phase"]].value
        for name in ("_last", "_view"):
            slot = state[at[name]]
            frozen[at[name]] = None if slot is None else number(slot)
        frozen[at["_attempts"]] = tuple(
            (a.request, a.beat, a.sent, number(a.seen), a.aim.value, a.token, a.mark, a.settled, a.credited)
            for a in state[at["_attempts"]]
        )
        frozen[at["_farewell"]] = self._catalog.claim(state[at["_farewell"]])
        frozen[at["_metadata"]] = None
        return tuple(frozen)

    def tidy(self, node: Node) -> Node:
        """Make equal what cannot make a difference any more; nothing at all where the search is exact."""
        assert node.state is not None
        if self._exact:
            return node._replace(mail=arranged(node.mail))
        at, state = self.index, list(node.state)
        phase = state[at["phase"]].value
        catalog, hold = self._catalog, self._terms.hold
        node = node._replace(state=tuple(state))
        names, mail = self._renumber(node)
        for name, phases in _TIMERS.items():
            state[at[name]] = (
                max(NOW, math.ceil(state[at[name]])) if phases is None or phase in phases else NOW
            )
        until = state[at["_renew_until"]]  # Whoever holds alone looks at it; infinity is no instant to round.
        state[at["_renew_until"]] = (
            max(NOW, math.ceil(until)) if phase in OURS and until < math.inf else math.inf
        )
        flight = state[at["_flight"]]
        if flight is not None:
            state[at["_flight"]] = flight._replace(
                request=names[flight.request], until=max(NOW, math.ceil(flight.until))
            )
        for name in ("_last", "_view"):
            slot = state[at[name]]
            state[at[name]] = None if slot is None else catalog.slots[catalog.slot(slot)]
        state[at["_attempts"]] = tuple([self._tidied(a, names[a.request]) for a in state[at["_attempts"]]])
        oldest = NOW - max(self._world.ttls) - self._world.lingers
        newest = state[at["_newest"]]
        state[at["_sightings"]] = tuple(
            s._replace(at=max(s.at, oldest)) for s in state[at["_sightings"]]
            if newest is None or catalog.orders[s.version, s.body] >= newest
        )  # fmt: skip
        missing = state[at["_missing"]]
        if missing is not None and missing[1] >= 0:
            state[at["_missing"]] = (missing[0], max(missing[1], oldest))
        if not state[at["_standing_back"]] or phase in OVER:
            state[at["_standing_back"]] = state[at["_told_open"]] = False
        if self._traits.token_from_write:
            state[at["_floor"]] = 0  # No token comes from it here.
        state[at["_requests"]] = len(names)
        state[at["lost"]] = None  # For people.
        state[at["_tries"]] = state[at["_races"]] = state[at["_edition"]] = 0
        state[at["trouble"]] = None
        if phase == "done":
            mail = muted(mail)
            if not self._world.heirs:
                state = self._ended(state)
                node = node._replace(drawn=node.drawn if self._world.again else 0)
        sends = tuple(send for send in node.sends if send[2] + hold > NOW) if phase not in OVER else ()
        sighted = tuple(sorted((s, max(first, oldest)) for s, first in node.sighted))
        if not self._world.heirs and phase != "seeking":
            sighted = sighted if self._world.vanishes else ()
            state[at["_sightings"]] = ()
            if phase in OVER:
                state[at["_view"]] = state[at["_missing"]] = state[at["token"]] = None
        known = {beat for _, beat, _ in sends} | {a.beat for a in state[at["_attempts"]]} | self._beats(mail)
        landed = node.landed & known
        return node._replace(
            state=tuple(state), falters=node.falters and phase in OURS,
            stands_back=node.stands_back and phase == "seeking", mail=mail, sends=sends, sighted=sighted,
            landed=landed,
        )  # fmt: skip

    def _beats(self, mail: tuple[Letter, ...]) -> set[str]:
        claims = self._catalog.claims
        return {claim.beat for letter in mail if (claim := claims[letter.claim]) is not None}

    def _tidied(self, attempt: Any, request: int) -> Any:
        least = NOW - self._terms.hold
        sent = least if attempt.credited or attempt.aim.value == "free" else max(attempt.sent, least)
        seen = self._catalog.slots[self._catalog.slot(attempt.seen)]
        if attempt.request == request and attempt.sent == sent and attempt.seen is seen:
            return attempt
        return attempt._replace(request=request, sent=sent, seen=seen, edition=0)

    def _ended(self, state: list[Any]) -> list[Any]:
        """A claim that is over and has no heir: nothing of it makes a difference any more."""
        at = self.index
        for name in ("_attempts", "_sightings"):
            state[at[name]] = ()
        for name in ("_last", "_view", "_flight", "_missing", "_newest", "token", "lost", "_farewell"):
            state[at[name]] = None
        state[at["_requests"]] = state[at["_floor"]] = 0
        state[at["_doubt"]], state[at["claim_id"]], state[at["_not_before"]] = False, "", NOW
        return state

    def _renumber(self, node: Node) -> tuple[dict[int, int], tuple[Letter, ...]]:
        """Requests by their order alone: how many there were before makes no difference."""
        assert node.state is not None
        flight = node.state[self.index["_flight"]]
        awaited = None if flight is None else flight.request
        mail = [letter for letter in node.mail if letter.swap or letter.request == awaited]
        used = {a.request for a in node.state[self.index["_attempts"]]}
        used |= {letter.request for letter in mail if not letter.mute}
        used |= set() if awaited is None else {awaited}
        names = {request: i for i, request in enumerate(sorted(used), 1)}
        return names, arranged(
            letter
            if letter.mute or letter.request == names[letter.request]
            else letter._replace(request=names[letter.request])
            for letter in mail
        )

    def aged(self, node: Node, hold: float, wait: float) -> Node:
        """The node after so much time on each of its clocks."""
        if node.state is None:
            mail = tuple(self._aged_letter(letter, hold) for letter in node.mail)
            return node._replace(mail=mail)
        at, state, shift = self.index, list(node.state), self._catalog.shift if self._boot else _same
        for name in (*_TIMERS, "_renew_until"):
            state[at[name]] -= hold if name in _ON_HOLD else wait
        if state[at["_flight"]] is not None:
            flight = state[at["_flight"]]
            state[at["_flight"]] = flight._replace(until=flight.until - wait)
        for name in ("_last", "_view"):
            state[at[name]] = shift(state[at[name]], hold)
        state[at["_attempts"]] = tuple(
            a._replace(sent=a.sent - hold, seen=shift(a.seen, hold)) for a in state[at["_attempts"]]
        )
        state[at["_sightings"]] = tuple(self._aged_sighting(s, hold, wait) for s in state[at["_sightings"]])
        missing = state[at["_missing"]]
        if missing is not None and missing[1] >= 0:
            state[at["_missing"]] = (missing[0], missing[1] - wait)
        state[at["_farewell"]] = (
            self._catalog.shift_claim(state[at["_farewell"]], hold) if self._boot else state[at["_farewell"]]
        )
        sighted = tuple((self._aged_slot(s, hold), first - wait) for s, first in node.sighted)
        return node._replace(
            state=tuple(state), mail=tuple(self._aged_letter(letter, hold) for letter in node.mail),
            sends=tuple((c, b, sent - hold) for c, b, sent in node.sends), sighted=sighted,
        )  # fmt: skip

    def _aged_slot(self, number: int, hold: float) -> int:
        return number if self._boot is None else self._catalog.shifted(number, hold)

    def _aged_sighting(self, sighting: Any, hold: float, wait: float) -> Any:
        body = sighting.body if self._boot is None else self._catalog.shift_body(sighting.body, hold)
        return sighting._replace(body=body, at=sighting.at - wait)

    def _aged_letter(self, letter: Letter, hold: float) -> Letter:
        if self._boot is None:
            return letter
        reply = (
            None if letter.reply is None else (letter.reply[0], self._catalog.shifted(letter.reply[1], hold))
        )
        claim = self._catalog.claim(self._catalog.shift_claim(self._catalog.claims[letter.claim], hold))
        return letter._replace(seen=self._catalog.shifted(letter.seen, hold), claim=claim, reply=reply)


def _same(slot: Slot | None, hold: float) -> Slot | None:
    return slot


def arranged(mail: Iterable[Letter]) -> tuple[Letter, ...]:
    """Letters have no order: the network knows none."""
    letters = tuple(mail)
    return letters if len(letters) < 2 else tuple(sorted(letters, key=_place))


def _place(letter: Letter) -> tuple[object, ...]:
    return *letter[:4], letter.reply or ("", 0), letter.mute, letter.echo


def without(mail: tuple[Letter, ...], place: int) -> tuple[Letter, ...]:
    """The other letters."""
    return (*mail[:place], *mail[place + 1 :])


def muted(mail: tuple[Letter, ...]) -> tuple[Letter, ...]:
    """What stays under way when nobody waits for the answers any more: swaps that may still land."""
    return arranged(
        letter._replace(mute=True, request=0) for letter in mail if letter.swap and letter.reply is None
    )


_ON_HOLD: Final = frozenset({"deadline", "_renew_at", "_overdue_at", "_renew_until"})
_LEAVING: Final = frozenset({"leaving", "chasing"})
# Every timer, and the phases in which anybody looks at it; None is all of them.
_TIMERS: Final[dict[str, frozenset[str] | None]] = {
    "deadline": OURS,
    "_renew_at": OURS,
    "_overdue_at": OURS,
    "_not_before": None,
    "_poll_at": frozenset({"seeking"}),
    "_until": _LEAVING,
}
_FIELDS: Final = frozenset(_TIMERS) | {
    "phase", "claim_id", "token", "lost", "_acquired", "_last", "_attempts", "_flight", "_newest", "_floor",
    "_view", "_sightings", "_missing", "_doubt", "_tries", "_races", "_requests", "_metadata", "_edition",
    "_farewell", "_renew_until", "_standing_back", "_told_open", "trouble",
}  # fmt: skip
