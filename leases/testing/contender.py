"""One side of a small world: the real machine, its letters, and what a checker keeps about it.

Everything is immutable and interned, so that a state is a number and an event that was tried once is looked
up.

The checker believes nothing that the machine says of itself: it keeps its own list of what was sent when, and
of what was first seen when.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from leases.clock import Instant
from leases.contract import Applied, Conflict, Outcome, Slot, Unknown
from leases.events import Endangered, GaveUp, Granted, Lost, Read, Released, Renewed, Swap, WentBack
from leases.record import Claim
from leases.testing.catalog import NAME, NOW, Catalog
from leases.testing.node import (
    CONFIRMED,
    GRANTED,
    LOST,
    NONE,
    OURS,
    OVER,
    RELEASED,
    Letter,
    Node,
    Normal,
    arranged,
    muted,
    without,
)
from leases.testing.small_worlds import World

SIDES: Final = ("A", "B")
BOOT: Final = "00000000-0000-4000-8000-000000000000"


class View(NamedTuple):
    """What the search asks of a node again and again, computed once."""

    phase: str
    believes: bool
    due: bool
    baseless: bool  # no write that was committed carries its deadline
    reading: bool  # a read is under way
    settled: bool  # nothing is due and no answer is under way


class Step(NamedTuple):
    """What one event makes of a node."""

    label: str
    node: int
    swaps: int = 0
    faults: tuple[str, ...] = ()
    token: int = 0  # of a confirmed grant
    settled: bool = False  # it says that nothing of it stands or may still land


class _Draws:
    """The random source: numbers that tell whose they are, and no jitter."""

    def __init__(self, side: int) -> None:
        self.side, self.life, self.drawn = side, 0, 0

    def getrandbits(self, k: int, /) -> int:
        self.drawn += 1
        return (self.side + 1) << 32 | self.life << 16 | self.drawn

    def random(self) -> float:
        return 0.0


def writer(claim: Claim | None) -> tuple[int, int] | None:
    """The side and the life of the process that wrote a record; None where it is nobody's."""
    if claim is None or not claim.id:
        return None
    number = int(claim.id, 16)
    return (number >> 32) - 1, number >> 16 & 0xFFFF


class Contender:
    """One side of a world. Nodes are numbers here; 0 is the side before it has started."""

    def __init__(
        self,
        side: int,
        world: World,
        catalog: Catalog,
        machinery: Any,
        terms: Any,
        *,
        exact: bool = False,
    ) -> None:
        self.side, self.world, self._catalog, self._machinery = side, world, catalog, machinery
        self._terms = terms
        self._draws = _Draws(side)
        self._now = Instant(NOW, NOW, 86400.0 * side)  # The wall clocks of two hosts may be days apart.
        self._ledger = machinery.Ledger()
        self._holder = SIDES[side].lower()
        self._traits = world.kind.rules.traits
        self._boot = BOOT if world.together else None
        self._machine = self._new_machine(None)
        self._normal = Normal(world, catalog, machinery, terms, self._boot, exact=exact)
        self.nodes: list[Node] = []
        self.views: list[View] = []
        self._known: dict[Any, int] = {}
        self._ticks: dict[tuple[int, float, float], int] = {}
        self._intern(Node(None), None)

    # ---- events ----------------------------------------------------------------------------------

    def start(self, number: int) -> Step:
        """A process begins to seek the lock."""
        node = self.nodes[number]
        self._draws.life, self._draws.drawn, self._ledger.highest = node.life, node.drawn, node.ledger
        self._machine = self._new_machine(None)
        self._machine.acquire(self._now)
        return self._finish("begins to seek the lock", node._replace(tenure=NONE), NONE)

    def poll(self, number: int) -> Step:
        """The driver looks at the timers."""
        return self._run("looks at its timers", number, lambda machine: None)

    def confirm(self, number: int) -> Step:
        """Ask whether the grant is a success."""
        verdict: list[bool] = []
        step = self._run(
            "asks whether it may report success",
            number,
            lambda machine: verdict.append(machine.confirm(self._now)),
        )
        if not verdict[0]:
            return step._replace(label="asks whether it may report success: no")
        node = self.nodes[step.node]
        faults = list(step.faults)
        if self.nodes[number].tenure != GRANTED:
            faults.append("14: success without a grant that was told just before")
        if not self._alive(node):
            faults.append("6: success is reported after its deadline")
        token = self._field(node, "token")
        confirmed = self._intern(node._replace(tenure=CONFIRMED), None)
        return step._replace(
            label="reports success",
            node=confirmed,
            faults=tuple(faults),
            token=token or 0,
        )

    def release(self, number: int, linger: float | None = None) -> Step:
        """The work has stopped."""
        how = "" if linger is None else f", and keeps others out for {linger:g} more"
        step = self._run(
            f"has stopped its work and releases{how}", number, lambda m: m.release(self._now, linger=linger)
        )
        if self.views[step.node].believes:
            step = step._replace(faults=(*step.faults, "7: it believes although it was released"))
        return step

    def renew(self, number: int, on: bool) -> Step:
        """Work that was told to stop is renewed no more; or it goes on after all."""
        node = self.nodes[number]._replace(falters=not on)
        label = "is renewed after all" if on else "is to be renewed no more"
        until = math.inf if on else self._now.hold
        return self._run(label, node, lambda machine: machine.renew_until(self._now, until))

    def stand(self, number: int, *, back: bool) -> Step:
        """It wants another lock first, and claims this one only when it is told to go ahead."""
        if not back:
            node = self.nodes[number]._replace(stands_back=False)
            return self._run("is to go ahead", node, lambda machine: machine.go_ahead(self._now))
        done: list[bool] = []
        step = self._run("is to stand back", number, lambda m: done.append(m.stand_back(self._now)))
        node = self.nodes[step.node]._replace(stands_back=done[0])
        return step._replace(node=self._intern(node, None))

    def abandon(self, number: int) -> Step:
        """Nobody waits for it any more."""
        return self._run("gives up waiting", number, lambda machine: machine.abandon(self._now))

    def crash(self, number: int) -> int:
        """The process dies; what it sent is under way without it."""
        node = self.nodes[number]
        mail = muted(node.mail)
        return self._intern(Node(None, life=node.life + 1, drawn=0, mail=mail), None)

    def again(self, number: int, *, heir: bool) -> Step:
        """The process makes a new claim; as an heir it takes over what the old one left."""
        node = self.nodes[number]
        self._restore(node)
        estate = self._machine.bequeath(self._now) if heir else None
        self._machine = self._new_machine(estate)
        self._machine.acquire(self._now)
        sighted = node.sighted if heir else ()
        node = node._replace(
            mail=muted(node.mail), tenure=NONE, falters=False, stands_back=False, sends=(),
            sighted=sighted,
        )  # fmt: skip
        return self._finish("hands over to its next claim" if heir else "makes a new claim", node, NONE)

    def receive(self, number: int, place: int) -> Step:
        """A reply arrives."""
        node = self.nodes[number]
        letter = node.mail[place]
        assert letter.reply is not None
        code, slot = letter.reply
        outcome: Outcome | Slot
        match code:
            case "applied":
                outcome = Applied(self._catalog.slots[slot])
            case "conflict":
                outcome = Conflict(self._catalog.slots[slot])
            case _:
                outcome = Conflict(None)
        node = node._replace(mail=without(node.mail, place))
        label = f"hears of its {letter.what}: {self._reply(letter)}"
        shown = None if code == "untold" else slot
        return self._told(label, node, letter.request, outcome, shown)

    def shown(self, number: int, slot: int) -> Step:
        """The read under way shows this slot."""
        node = self.nodes[number]
        place = next(i for i, letter in enumerate(node.mail) if not letter.swap)
        letter = node.mail[place]
        label = f"its {letter.what} shows {self._catalog.name(slot)}"
        node = node._replace(mail=without(node.mail, place))
        return self._told(label, node, letter.request, self._catalog.slots[slot], slot)

    def fail(self, number: int, place: int, *, void: bool) -> Step:
        """The driver says Unknown; unless it is void, the request may land all the same."""
        node = self.nodes[number]
        letter = node.mail[place]
        mail = without(node.mail, place)
        if letter.swap and not void:
            mail = arranged((*mail, letter._replace(mute=True, request=0)))
        word = "was surely not executed" if void else "has no answer, and nobody knows"
        outcome = Unknown(None, void)
        return self._told(
            f"is told that its {letter.what} {word}", node._replace(mail=mail), letter.request, outcome
        )

    def hint(self, number: int, slot: int) -> Step:
        """A watch shows a version, be it an old one."""
        label = f"is shown {self._catalog.name(slot)} by its watch"
        shown = self._catalog.slots[slot]
        node = self._sight(self.nodes[number], slot)
        return self._run(label, node, lambda machine: machine.notice(self._now, shown))

    def lose(self, number: int, place: int) -> int:
        """A letter is lost."""
        node = self.nodes[number]
        return self._intern(node._replace(mail=without(node.mail, place)), None)

    def double(self, number: int, place: int) -> int:
        """The network doubles a request."""
        node = self.nodes[number]
        copy = node.mail[place]._replace(echo=True)
        return self._intern(node._replace(mail=arranged((*node.mail, copy))), None)

    def answered(self, number: int, place: int, reply: tuple[str, int]) -> int:
        """The store has carried out a request."""
        node = self.nodes[number]
        letter = node.mail[place]
        mail, landed = without(node.mail, place), node.landed
        claim = self._catalog.claims[letter.claim]
        if reply[0] == "applied" and claim is not None:
            landed |= {claim.beat}
        if not letter.mute:
            mail = arranged((*mail, letter._replace(reply=reply, seen=0, claim=0)))
        return self._intern(node._replace(mail=mail, landed=landed), None)

    def doomed(self, number: int, stands: int) -> int:
        """Let go of what is under way, can only conflict, and would tell nobody."""
        node = self.nodes[number]
        version = self._catalog.slots[stands].version
        mail = tuple(
            letter for letter in node.mail
            if not letter.mute or letter.seen == 0 or self._catalog.slots[letter.seen].version == version
            or self._catalog.slots[letter.seen].claim is None
        )  # fmt: skip
        return number if mail == node.mail else self._intern(node._replace(mail=mail), None)

    def tick(self, number: int, hold: float, wait: float) -> int:
        """Time passes, by so much on each of its clocks."""
        key = number, hold, wait
        if key not in self._ticks:
            self._ticks[key] = self._intern(self._normal.aged(self.nodes[number], hold, wait), None)
        return self._ticks[key]

    # ---- one step of the machine -----------------------------------------------------------------

    def _told(
        self, label: str, node: Node, request: int, outcome: Outcome | Slot, shown: int | None = None
    ) -> Step:
        if shown is not None:
            node = self._sight(node, shown)
        return self._run(label, node, lambda machine: machine.handle(self._now, request, outcome))

    def _run(self, label: str, node: int | Node, act: Callable[[Any], object]) -> Step:
        node = self.nodes[node] if isinstance(node, int) else node
        self._restore(node)
        before = self._machine.phase.value
        claim, deadline = self._machine.claim_id, self._machine.deadline
        act(self._machine)
        step = self._finish(label, node, before)
        after = self.nodes[step.node]
        same = (
            before in OURS and self.views[step.node].phase in OURS and self._field(after, "claim_id") == claim
        )
        if same and self._field(after, "deadline") < deadline:
            return step._replace(faults=(*step.faults, "8: the deadline moves back"))
        return step

    def _restore(self, node: Node) -> None:
        assert node.state is not None
        self._draws.life, self._draws.drawn, self._ledger.highest = node.life, node.drawn, node.ledger
        self._machine.restore(node.state)

    def _finish(self, label: str, node: Node, before: object) -> Step:
        machine = self._machine
        faults: list[str] = []
        swaps = 0
        sends, mail = list(node.sends), list(node.mail)
        tenure, settled = node.tenure, False
        was_done = before == "done"
        for output in machine.poll(self._now):
            match output:
                case Read(request):
                    mail.append(Letter(request, False, 0, 0))
                case Swap(request, seen, claim):
                    swaps += 1
                    faults += self._judge(node, machine, seen, claim, sends)
                    mail.append(Letter(request, True, self._catalog.slot(seen), self._catalog.claim(claim)))
                    if claim is not None and claim.held:
                        sends.append((claim.id, claim.beat, NOW))
                case Granted():
                    faults += [] if tenure in (NONE, GRANTED) else [f"14: granted after {tenure}"]
                    tenure = GRANTED
                case Lost():
                    faults += (
                        []
                        if tenure in (GRANTED, CONFIRMED)
                        else ["14: a loss is told without a tenure, or twice"]
                    )
                    tenure = LOST
                case Renewed() | Endangered():
                    faults += [] if tenure in (GRANTED, CONFIRMED) else ["14: news of a tenure that is over"]
                case Released(clean):
                    faults += ["14: released twice"] if tenure == RELEASED else []
                    settled, tenure = clean, RELEASED
                case GaveUp() | WentBack():
                    faults.append("the store did not go back, and refuses nobody")
                case _:
                    pass
        phase = machine.phase.value
        if phase == "done" and not was_done and machine.snapshot()[self._normal.index["_until"]] > NOW:
            settled = True
        if before in OVER and phase not in OVER:
            faults.append("7: a claim that was over is back")
        node = node._replace(
            state=machine.snapshot(), drawn=self._draws.drawn, ledger=self._ledger.highest,
            tenure=tenure, mail=tuple(mail), sends=tuple(sends),
        )  # fmt: skip
        if tenure == CONFIRMED and phase in OVER and phase not in ("leaving", "chasing", "done"):
            faults.append("10: the loss was not told")
        if tenure == CONFIRMED and phase in ("held", "jeopardy") and not machine.held(self._now):
            faults.append("10: past the deadline, and the loss is not told")
        number = self._intern(node, phase)
        if self.views[number].baseless:
            faults.append("8, 9: it counts on a write that was not committed, or from later than its send")
        return Step(label, number, swaps, tuple(faults), settled=settled)

    def _judge(
        self, node: Node, machine: Any, seen: Slot, claim: Claim | None, sends: list[tuple[str, str, float]]
    ) -> Iterable[str]:
        """Whether a swap may be sent, by what this side has seen and sent itself."""
        mine = (self.side, node.life)
        old = seen.claim
        if node.stands_back and machine.phase.value == "seeking":
            yield "a claim is sent by who stands back"
        if claim is None or not claim.held:
            if writer(old) != mine:
                yield "5: a release names a version that is not its own"
        elif old is not None and claim.id == old.id:
            if machine.phase.value in OURS and not any(
                c == claim.id and sent + self._terms.hold > NOW for c, _, sent in sends
            ):
                yield "a renewal is sent past the deadline"
            if machine.phase.value in ("seeking", "lost", "done"):
                yield f"a renewal is sent by a claim that is {machine.phase.value}"
            if machine.phase.value in OURS and claim.ttl != old.ttl:
                yield "the ttl of a tenure changes"
            if machine.phase.value in OURS and node.falters:
                yield "a renewal is sent although the lease is to run out"
        elif old is not None and old.held and writer(old) != mine and not self._timed(node, seen):
            yield "2: a takeover of a version that was not timed for its own ttl"

    def _timed(self, node: Node, seen: Slot) -> bool:
        claim = seen.claim
        assert claim is not None
        number = self._catalog.slot(seen)
        if any(slot == number and NOW - at >= claim.ttl for slot, at in node.sighted):
            return True
        return self._boot is not None and claim.sent is not None and NOW - claim.sent >= claim.ttl

    def _sight(self, node: Node, number: int) -> Node:
        """Note when a slot was first in hand; where versions have an order, only the newest matters."""
        slot = self._catalog.slots[number]
        if any(number == known for known, _ in node.sighted):
            return node
        if slot.order is None:
            return node._replace(sighted=(*node.sighted, (number, NOW))) if slot.held else node
        for known, _ in node.sighted:
            order = self._catalog.slots[known].order
            if order is not None and order > slot.order:
                return node
        return node._replace(sighted=((number, NOW),))

    # ---- interning -------------------------------------------------------------------------------

    def _intern(self, node: Node, phase: str | None) -> int:
        if node.state is not None:
            node = self._normal.tidy(node)
        key = (self._normal.frozen(node.state), *node[1:])
        number = self._known.get(key)
        if number is None:
            number = self._known[key] = len(self.nodes)
            self.nodes.append(node)
            self.views.append(self._view(node))
        return number

    def _view(self, node: Node) -> View:
        quiet = not any(not letter.mute and not letter.echo for letter in node.mail)
        if node.state is None:
            return View("down", False, False, False, False, quiet)
        machine = self._machine
        self._restore(node)
        wake = machine.wake(self._now)
        phase = machine.phase.value
        due = wake is not None and wake <= 0
        baseless = (
            phase in OURS
            and machine.deadline > NOW
            and not any(
                claim == machine.claim_id
                and beat in node.landed
                and sent + self._terms.hold >= machine.deadline
                for claim, beat, sent in node.sends
            )
        )
        reading = any(not letter.swap for letter in node.mail)
        return View(
            phase, machine.held(self._now), due, baseless, reading, quiet and not due and phase != "granted"
        )

    def _alive(self, node: Node) -> bool:
        claim = self._field(node, "claim_id")
        return any(
            c == claim and beat in node.landed and sent + self._terms.hold > NOW
            for c, beat, sent in node.sends
        )

    def _field(self, node: Node, name: str) -> Any:
        assert node.state is not None
        return node.state[self._normal.index[name]]

    def _new_machine(self, estate: Any) -> Any:
        return self._machinery.Machine(
            NAME, self._holder, self._terms, self._traits, self._draws,
            boot=self._boot, estate=estate, ledger=self._ledger,
        )  # fmt: skip

    # ---- for people ------------------------------------------------------------------------------

    def _reply(self, letter: Letter) -> str:
        """A reply in words."""
        assert letter.reply is not None
        code, slot = letter.reply
        words = {"applied": "applied, ", "conflict": "conflict, ", "untold": "conflict", "slot": ""}
        return words[code] + ("" if code == "untold" else self._catalog.name(slot))

    def describe(self, number: int) -> str:
        """What this side is, and what it believes."""
        node, view = self.nodes[number], self.views[number]
        if node.state is None:
            return "down"
        if not view.believes:
            return view.phase
        left = self._field(node, "deadline") - NOW
        return f"{view.phase}, believes for {left:g} more"
