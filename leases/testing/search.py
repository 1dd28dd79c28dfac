"""The search: every interleaving of a small world, breadth first, each state once.

A state is the store, both sides, the highest token of a success, and what is left of the bounds; a schedule
that breaks a rule comes out as short as there is one.
"""

from __future__ import annotations

import gc
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from leases.testing.catalog import NOW, Catalog
from leases.testing.contender import Contender, Step, writer
from leases.testing.small_worlds import World

# What is left of the bounds, in this order; a crash and the like cost one of their own kind.
_SWAPS, _DOUBLES, _CRASHES, _HEIRS, _AGAIN, _FALTERS, _VANISHES, _EDITS, _BREAKS = range(9)
_NOTHING: Final = -1


class State(NamedTuple):
    """One state of a world, all in numbers of the catalog, of each side's nodes, and of bounds left."""

    shelf: int
    a: int
    b: int
    top: int
    left: tuple[int, ...]


class Line(NamedTuple):
    """One line of a schedule: at which tick, who, what happened, and how both stand after it."""

    tick: int
    who: str
    what: str
    store: str
    a: str
    b: str


@dataclass
class Result:
    """What a search found."""

    world: World
    states: int = 0
    transitions: int = 0
    seconds: float = 0.0
    complete: bool = True
    depth: int = 0
    faults: tuple[str, ...] = ()
    schedule: list[Line] = field(default_factory=list)


Move = tuple[str, str, State, tuple[str, ...]]  # who, what, what follows, which rules it breaks


class Search:
    """One world, and everything that can happen in it.

    Args:
        world: which.
        machinery: the module that holds `Machine`, or a broken copy of it.
        terms: the module that holds `Terms`, or a broken copy of it.
        exact: tell apart what makes no difference. Such a search never ends; it is there to show that what is
            taken for equal is equal.
    """

    def __init__(self, world: World, machinery: Any, terms: Any, *, exact: bool = False) -> None:
        self.world = world
        self.catalog = Catalog(
            world.kind, 9 if world.hints else world.stale, NOW - max(world.ttls) - world.lingers
        )
        self.sides = [
            Contender(side, world, self.catalog, machinery, make_terms(terms, ttl, world), exact=exact)
            for side, ttl in enumerate(world.ttls)
        ]
        self._local: list[dict[int, list[tuple[Step, int]]]] = [{}, {}]
        self._landing: list[dict[tuple[int, int], list[tuple[str, int, int]]]] = [{}, {}]
        self._shown: list[dict[tuple[int, int], list[Step]]] = [{}, {}]
        self._prunings: list[dict[tuple[int, int], int]] = [{}, {}]
        self._hints: list[dict[tuple[int, int], Step]] = [{}, {}]
        self._ticks = list(self._paces())
        # Of a doubled request no machine can know, and where versions have no order a read may mislead it:
        # then a record is left, and is gone after its ttl.
        self._tells_all = world.kind.rules.traits.ordered and not world.doubles and not world.lingers
        self._most = (world.letters, 1 if world.plain else world.letters)
        self._alike = world.ttls[0] == world.ttls[1] and not world.live
        w = world
        left = (
            w.swaps, w.doubles, w.crashes, w.heirs, w.again, w.falters, w.vanishes, w.edits, w.breaks,
        )  # fmt: skip
        self.start = State(0, 0, 0, 0, left)
        if world.held:
            self.start = self._granted(self.start)

    def run(self, most: int | None = None, seconds: float | None = None) -> Result:
        """Search until nothing new can happen or a rule is broken; `most` and `seconds` cut it short."""
        collects = gc.isenabled()
        gc.disable()  # There is much to keep, and nothing in circles: to look for them takes as long again.
        try:
            return self._run(most, seconds)
        finally:
            if collects:
                gc.enable()

    def _run(self, most: int | None, seconds: float | None) -> Result:
        result = Result(self.world)
        began = time.perf_counter()
        came: dict[State, tuple[State, str, str] | None] = {self.start: None}
        frontier = [self.start]
        while frontier and not result.faults:
            result.depth += 1
            following: list[State] = []
            for state in frontier:
                for who, what, after, faults in self.moves(state):
                    result.transitions += 1
                    if faults:
                        result.faults = faults
                        result.schedule = self._schedule(came, state, (who, what, after))
                        break
                    if after not in came:
                        came[after] = state, who, what
                        following.append(after)
                if result.faults:
                    break
            if (most is not None and len(came) > most) or (
                seconds is not None and time.perf_counter() - began > seconds
            ):
                result.complete = not following
                break
            frontier = following
        result.states, result.seconds = len(came), time.perf_counter() - began
        return result

    def _granted(self, state: State) -> State:
        """The first side has acquired without any trouble; what it cost is not counted."""
        for wanted in ("begins", "shows nothing", "is applied", "hears of its swap", "reports success"):
            moves = ((what, after, faults) for who, what, after, faults in self.moves(state) if who == "A")
            _what, state, faults = next((move for move in moves if wanted in move[0]), ("", state, ()))
            assert not faults, faults
        assert self.sides[0].views[state.a].believes, "A could not acquire an empty lock"
        return state._replace(left=self.start.left)

    # ---- what can happen -------------------------------------------------------------------------

    def moves(self, state: State) -> Iterator[Move]:
        """Everything that can happen next."""
        if not self.world.slow_reads:
            for side, number in enumerate((state.a, state.b)):
                if self.sides[side].views[number].reading:
                    yield from self._reads(state, side)
                    return
        yield from self._time(state)
        for side in (0, 1):
            yield from self._by_itself(state, side)
            yield from self._at_the_store(state, side)
            yield from self._reads(state, side)
            if self.world.hints and self._subject(side):
                yield from self._by_hint(state, side)
        yield from self._by_strangers(state)

    def _time(self, state: State) -> Iterator[Move]:
        a, b = self.sides
        if self.world.live and not a.views[state.a].settled:
            return
        for label, (hold_a, wait_a), (hold_b, wait_b) in self._ticks:
            shelf = self.catalog.shelf_shifted(state.shelf, hold_a) if self.world.together else state.shelf
            after = State(
                shelf, a.tick(state.a, hold_a, wait_a), b.tick(state.b, hold_b, wait_b), state.top, state.left
            )
            yield "time", label, after, self._both(after)

    def _by_itself(self, state: State, side: int) -> Iterator[Move]:
        number = state.b if side else state.a
        options = self._local[side].get(number)
        if options is None:
            options = self._local[side][number] = list(self._options(side, number))
        for step, cost in options:
            if number == 0 and side == 1 and state.a == 0 and self._alike:
                continue  # Let A be the first.
            move = self._stepped(state, side, step, cost, state.shelf)
            if move is not None:
                yield move

    def _options(self, side: int, number: int) -> Iterator[tuple[Step, int]]:
        contender, world = self.sides[side], self.world
        node, view = contender.nodes[number], contender.views[number]
        live, subject = world.live and side == 0, self._subject(side)
        if node.state is None:
            yield contender.start(number), _NOTHING
        else:
            if view.due:
                yield contender.poll(number), _NOTHING
            yield from ((step, _NOTHING) for step in self._calls(contender, number, view.phase, subject))
            if world.crashes and subject and not live:
                yield Step("dies", contender.crash(number)), _CRASHES
            if world.heirs and subject and not live:
                yield contender.again(number, heir=True), _HEIRS
            if world.again and subject and view.phase == "done":
                yield contender.again(number, heir=False), _AGAIN
            if world.falters and subject and view.phase in ("held", "jeopardy"):
                yield contender.renew(number, node.falters), _NOTHING if node.falters else _FALTERS
        for place, letter in enumerate(node.mail):
            if letter.reply is not None:
                yield contender.receive(number, place), _NOTHING
            if world.loses and len(node.mail) >= self._most[side] and (not live or letter.echo):
                yield Step(f"its {letter.what} is lost", contender.lose(number, place)), _NOTHING
            if letter.reply is None and letter.swap and world.doubles and subject and not letter.echo:
                yield Step(f"its {letter.what} is doubled", contender.double(number, place)), _DOUBLES
            if subject and letter.swap and letter.reply is None and not (letter.mute or letter.echo or live):
                if world.errors:
                    yield contender.fail(number, place, void=False), _NOTHING
                if world.busy:
                    yield contender.fail(number, place, void=True), _NOTHING

    def _calls(self, contender: Contender, number: int, phase: str, subject: bool) -> Iterator[Step]:
        """What the application may do."""
        if phase == "granted":
            yield contender.confirm(number)
        if phase == "lost" or (phase in ("granted", "held", "jeopardy") and subject and self.world.releases):
            yield contender.release(number)
        if phase in ("held", "jeopardy") and subject and self.world.lingers:
            yield contender.release(number, float(self.world.lingers))
        if phase == "seeking" and subject and self.world.abandons:
            yield contender.abandon(number)
        if phase == "seeking" and subject and self.world.stands_back:
            yield contender.stand(number, back=not contender.nodes[number].stands_back)

    def _at_the_store(self, state: State, side: int) -> Iterator[Move]:
        number = state.b if side else state.a
        key = number, state.shelf
        landings = self._landing[side].get(key)
        if landings is None:
            landings = self._landing[side][key] = list(self._landings(side, number, state.shelf))
        for label, node, shelf in landings:
            after = self._with(state, side, node, shelf, state.top, state.left)
            yield self._name(side), label, after, ()

    def _landings(self, side: int, number: int, shelf: int) -> Iterator[tuple[str, int, int]]:
        contender, catalog = self.sides[side], self.catalog
        for place, letter in enumerate(contender.nodes[number].mail):
            if letter.reply is not None or not letter.swap:
                continue
            after, reply = catalog.swapped(shelf, letter.seen, letter.claim)
            if reply[0] == "conflict" and not self.world.tells:
                reply = "untold", reply[1]
            word = "is applied" if reply[0] == "applied" else "conflicts"
            shown = catalog.name(catalog.shelves[after].slot)
            label = f"its {letter.what} {word}; there stands {shown}"
            yield label, contender.answered(number, place, reply), after

    def _reads(self, state: State, side: int) -> Iterator[Move]:
        """A read shows what stands there, or what stood there before."""
        contender, world = self.sides[side], self.world
        number = state.b if side else state.a
        if not contender.views[number].reading:
            return
        steps = self._shown[side].get((number, state.shelf))
        if steps is None:
            past = self.catalog.shelves[state.shelf].past
            slots = dict.fromkeys(reversed(past[-1 - world.stale :]))
            steps = self._shown[side][number, state.shelf] = [contender.shown(number, slot) for slot in slots]
            if world.errors and self._subject(side) and not world.live:
                place = next(i for i, letter in enumerate(contender.nodes[number].mail) if not letter.swap)
                steps.append(contender.fail(number, place, void=False))
        for step in steps:
            move = self._stepped(state, side, step, _NOTHING, state.shelf)
            if move is not None:
                yield move

    def _by_hint(self, state: State, side: int) -> Iterator[Move]:
        number = state.b if side else state.a
        if self.sides[side].nodes[number].state is None:
            return
        for slot in dict.fromkeys(self.catalog.shelves[state.shelf].past):
            step = self._hints[side].get((number, slot))
            if step is None:
                step = self._hints[side][number, slot] = self.sides[side].hint(number, slot)
            move = self._stepped(state, side, step, _NOTHING, state.shelf)
            if move is not None:
                yield move

    def _by_strangers(self, state: State) -> Iterator[Move]:
        if not any(state.left[_VANISHES:]):
            return
        slot = self.catalog.slots[self.catalog.shelves[state.shelf].slot]
        if not slot.held:
            return
        acts = (
            (_VANISHES, "removes the record", self.catalog.vanished),
            (_EDITS, "edits the object", self.catalog.edited),
            (_BREAKS, "breaks the lock", self.catalog.broken),
        )
        for cost, label, act in acts:
            if state.left[cost] and (cost != _VANISHES or self._seen_by_all(state)):
                after = state._replace(shelf=act(state.shelf), left=_paid(state.left, cost, 0))
                yield "stranger", label, after, ()

    def _seen_by_all(self, state: State) -> bool:
        """A record's vanishing is survived by those only who saw it, and not by a create under way."""
        slot = self.catalog.shelves[state.shelf].slot
        owner = writer(self.catalog.slots[slot].claim)
        for side, number in enumerate((state.a, state.b)):
            node = self.sides[side].nodes[number]
            if any(letter.swap and self.catalog.slots[letter.seen].claim is None for letter in node.mail):
                return False
            if owner != (side, node.life) and not any(
                self.catalog.slots[known].held for known, _ in node.sighted
            ):
                return False
        return True

    # ---- the rules that need both sides or the store ------------------------------------------------

    def _stepped(self, state: State, side: int, step: Step, cost: int, shelf: int) -> Move | None:
        """A step of one side, with what it costs; None where the bounds do not allow it."""
        left = state.left
        if step.swaps > left[_SWAPS] or (cost >= 0 and not left[cost]):
            return None
        contender = self.sides[side]
        if len(contender.nodes[step.node].mail) > self._most[side]:
            return None
        if step.swaps or cost >= 0:
            left = _paid(left, cost, step.swaps)
        top = state.top if step.token == 0 else max(step.token, state.top)
        after = self._with(state, side, step.node, shelf, top, left)
        faults = step.faults + self._both(after)
        view = contender.views[step.node]
        if step.token and step.token <= state.top:
            faults += (f"3: token {step.token} after {state.top}",)
        if step.settled and self._tells_all and self._leftover(after, side):
            faults += ("15: it says that nothing is left, and its record stands or may still land",)
        if self.world.live and side == 0 and view.phase == "lost":
            faults += ("12: a live holder is deposed",)
        return self._name(side), step.label, after, faults

    def _both(self, state: State) -> tuple[str, ...]:
        if self.sides[0].views[state.a].believes and self.sides[1].views[state.b].believes:
            return ("1: both believe that they hold",)
        return ()

    def _leftover(self, state: State, side: int) -> bool:
        node = self.sides[side].nodes[state.b if side else state.a]
        mine = side, node.life
        stands = self.catalog.shelves[state.shelf].slot
        slot = self.catalog.slots[stands]
        if slot.held and writer(slot.claim) == mine:
            return True
        for letter in node.mail:
            claim = self.catalog.claims[letter.claim]
            if not letter.swap or letter.reply is not None or claim is None or not claim.held:
                continue
            if writer(claim) == mine and self.catalog.slots[letter.seen].version == slot.version:
                return True
        return False

    def _with(self, state: State, side: int, node: int, shelf: int, top: int, left: tuple[int, ...]) -> State:
        a, b = (state.a, node) if side else (node, state.b)
        return State(shelf, self._pruned(0, a, shelf), self._pruned(1, b, shelf), top, left)

    def _pruned(self, side: int, number: int, shelf: int) -> int:
        key = number, shelf
        pruned = self._prunings[side].get(key)
        if pruned is None:
            pruned = self._prunings[side][key] = self.sides[side].doomed(
                number, self.catalog.shelves[shelf].slot
            )
        return pruned

    def _subject(self, side: int) -> bool:
        return side == 0 or not self.world.plain

    def _name(self, side: int) -> str:
        return "B" if side else "A"

    def _paces(self) -> Iterator[tuple[str, tuple[float, float], tuple[float, float]]]:
        """How far the clocks of both may advance in one tick: (holding, waiting) of each."""
        paces = [(float(rate), float(rate)) for rate in self.world.rates]
        if self.world.suspends:
            paces += [(float(rate), 0.0) for rate in self.world.rates]
        for a, b in itertools.product(paces, repeat=2):
            if self.world.together and a != b:
                continue
            if self.world.live and a != (1.0, 1.0):
                continue
            yield f"passes: A's clock {_pace(a)}, B's {_pace(b)}", a, b

    def seen(self, state: State) -> tuple[str, str, str]:
        """What stands in the store, and how both sides stand, in words."""
        a, b = self.sides
        store = self.catalog.name(self.catalog.shelves[state.shelf].slot)
        return store, a.describe(state.a), b.describe(state.b)

    # ---- for people ------------------------------------------------------------------------------

    def _schedule(
        self, came: dict[State, tuple[State, str, str] | None], last: State, end: tuple[str, str, State]
    ) -> list[Line]:
        steps: list[tuple[str, str, State]] = [end]
        state = last
        while (origin := came[state]) is not None:
            steps.append((origin[1], origin[2], state))
            state = origin[0]
        tick, lines = 0, list[Line]()
        for who, what, after in reversed(steps):
            tick += who == "time"
            lines.append(Line(tick, who, what, *self.seen(after)))
        return lines


def make_terms(module: Any, ttl: int, world: World) -> Any:
    """The terms of one side, with V at the bound: no slack, so that one unit more would be too much."""
    slow, fast = min(world.rates), max(world.rates)
    rate = (fast - slow) / (fast + slow)
    hold = (
        ttl
        if slow == fast
        else round(module.Terms(ttl, renew=world.renew, attempt=1, rate=rate, guard=0).hold, 6)
    )
    return module.Terms(ttl, hold=hold, renew=world.renew, attempt=1, rate=rate, guard=0)


def _paid(left: tuple[int, ...], cost: int, swaps: int) -> tuple[int, ...]:
    paid = list(left)
    paid[_SWAPS] -= swaps
    if cost >= 0:
        paid[cost] -= 1
    return tuple(paid)


def _pace(pace: tuple[float, float]) -> str:
    hold, wait = pace
    return f"+{hold:g}" if hold == wait else f"+{hold:g} while it sleeps"
