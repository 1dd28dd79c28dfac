"""The fakes against what they stand in for: the same operations on both, and everything that came of them.

`memory:?kind=etcd` keeps the rules by which the simulator and most tests know an etcd. Here both are asked
the same: read, swap on the version that stands there, on one that is gone and on one of another name, free,
hand over, remove, scan, write a key beside the record. Whatever can be compared must be equal: how each
ended, the claims, which versions are the same and which are not, the order of writes, and that every token
is above all before it. Numbers themselves differ.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from contextlib import closing, nullcontext
from dataclasses import replace
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from leases.contract import Applied, Backend, Conflict, Outcome, Slot, absent
from leases.record import Claim
from leases_backends import memory
from stores import Site, every_shared_store
from stubborn import fresh_url

TIMEOUT: Final = 10.0
NAMES: Final = ("a", "a/b")
EXAMPLES: Final = int(os.environ.get("LEASES_FAKES_EXAMPLES", "25"))

# An operation: what, on which name, on which of the slots seen so far, counted from the last.
VERBS: Final = (
    "claim", "claim", "renew", "repeat", "free", "hand-over", "remove", "stray", "read", "scan",
    "keep", "drop",
)  # fmt: skip
operations: Final = st.lists(
    st.tuples(st.sampled_from(VERBS), st.sampled_from(NAMES), st.sampled_from((0, 0, 0, 0, 1, 2, 3, 6))),
    min_size=20,
    max_size=40,
)
# What distinguishes the kinds of store, in a few words each.
TELLING: Final = (
    "claim repeat renew repeat read",
    "claim renew free claim free read",
    "claim renew renew remove claim renew renew read",
    "claim remove read claim free remove read scan",
    "claim hand-over claim hand-over remove read",
    "keep claim keep renew keep drop free keep claim keep remove keep scan",
)


class Twin:
    """One of the two stores, and all that it has shown so far.

    Attributes:
        backend: the store.
        objects: a version brings its whole object along, name and all, so that it cannot stray to another.
        seen: by name, every slot that came back, in order, after one that was made up.
        tokens: by name, the token of every claim that was committed, in order.
    """

    def __init__(self, backend: Backend, stem: str) -> None:
        self.backend, self.stem = backend, stem
        self.objects = "kubernetes" in backend.traits.store
        self.seen = {name: [absent(stem + name)] for name in NAMES}
        self.tokens: dict[str, list[int]] = {name: [] for name in NAMES}

    def act(self, number: int, verb: str, name: str, pick: int) -> object:
        """Do one thing, and tell what came of it in words that do not depend on numbers."""
        seen = self.seen[name][max(-1 - pick, -len(self.seen[name]))]
        match verb:
            case "read":
                self._read(name)
                return "read"
            case "scan":
                return [self._told(slot) for slot in self.backend.scan(self.stem + name, TIMEOUT)]
            case "claim":
                return self._swap(name, seen, self._claim(number, seen))
            case "renew" if seen.claim is not None:
                return self._swap(name, seen, replace(seen.claim, beat=f"{number:016x}"))
            case "repeat" if seen.claim is not None:
                return self._swap(name, seen, seen.claim)
            case "hand-over" if seen.claim is not None:
                free = seen.claim.freed(token=seen.token, successor="web-2")
                return self._swap(name, seen, replace(free, beat=f"{number:016x}"))
            case "stray" if not self.objects:  # A version that stands, under another name.
                other = self.seen[NAMES[name == NAMES[0]]][-1]
                stray = replace(seen, version=other.version, claim=other.claim)
                return self._swap(name, stray, self._claim(number, seen))
            case "remove":
                return self._done(name, self.backend.remove(seen, TIMEOUT))
            case "free":
                return self._swap(name, seen, None)
            case "keep" | "drop" if self.backend.traits.guards:
                return self._keep(name, seen, b"%d" % number if verb == "keep" else None)
            case _:
                return "nothing to do it with"

    def _read(self, name: str) -> Slot:
        slot = self.backend.read(self.stem + name, TIMEOUT)
        self.seen[name].append(slot)
        return slot

    def _swap(self, name: str, seen: Slot, claim: Claim | None) -> str:
        before = self.backend.read(self.stem + name, TIMEOUT)
        outcome = self.backend.swap(seen, claim, TIMEOUT)
        if isinstance(outcome, Applied) and claim is not None and claim.held and before.claim != claim:
            self._count(name, claim, outcome.slot)
        return self._done(name, outcome)

    def _keep(self, name: str, guard: Slot, body: bytes | None) -> object:
        """Write beside the record, which is done if exactly the guard's version stands, and leaves it so."""
        before = self.backend.read(self.stem + name, TIMEOUT)
        outcome = self.backend.write_guarded(guard, "key", body, TIMEOUT)
        stands = guard.version is not None and guard.version == before.version
        assert isinstance(outcome, Applied) == stands, (outcome, before)
        assert self.backend.read(self.stem + name, TIMEOUT).version == before.version
        return type(outcome).__name__, self.backend.read_guarded(self.stem + name, "key", TIMEOUT)

    def _count(self, name: str, claim: Claim, slot: Slot) -> None:
        """A claim has the token that observers see; one that is renewed keeps its own."""
        token = slot.token
        assert token is not None
        if not self.tokens[name] or all(claim.id != old.id for old in self._claims(name)):
            assert all(token > old for old in self.tokens[name]), (token, self.tokens[name])
            self.tokens[name].append(token)

    def _claims(self, name: str) -> list[Claim]:
        return [slot.claim for slot in self.seen[name] if slot.claim is not None]

    def _done(self, name: str, outcome: Outcome) -> str:
        """Keep what an outcome showed, and what stands there now."""
        told = outcome.slot if isinstance(outcome, Applied | Conflict) else None
        if isinstance(outcome, Applied):
            self.seen[name].append(outcome.slot)
        stands = self._read(name)
        if told is not None and told.version is not None:
            assert told == stands, "what it tells is what stands there"
        return type(outcome).__name__

    def _claim(self, number: int, seen: Slot) -> Claim:
        """A new claim as the protocol writes it over what was seen; the same number, the same claim.

        An old absence does not tell what was counted since, and may come again when a record is removed. That
        is for times without clients, who all look again afterwards.
        """
        token = None
        if not self.backend.traits.token_from_write:
            last = self.seen[seen.name.removeprefix(self.stem)][-1]
            known = seen.claim.token if seen.claim is not None and seen.claim.token is not None else 0
            token = max(seen.floor, known, last.floor if seen.claim is None else 0) + 1
        return Claim(
            f"holder-{number}", f"{number:032x}", f"{number:016x}", 15.0, token, acquired=1.5, renewed=2.5
        )

    def _told(self, found: Slot | Exception) -> object:
        assert isinstance(found, Slot), found
        return found.name.removeprefix(self.stem), _tokenless(found.claim)

    def story(self, name: str) -> list[tuple[object, ...]]:
        """All slots of a name: claims, versions numbered as they first came, and the rank of their order.

        An absence may show any number between the writes before it and after it, so it has no rank.
        """
        slots = self.seen[name][1:]
        versions: list[object] = [None]
        versions += [slot.version for slot in slots if slot.version is not None]
        orders = sorted({slot.order for slot in slots if slot.claim is not None and slot.order is not None})
        return [
            (
                _tokenless(slot.claim),
                versions.index(slot.version),
                None if slot.claim is None or slot.order is None else orders.index(slot.order),
            )
            for slot in slots
        ]

    def check_numbers(self, name: str) -> None:
        """Order never falls from one slot to the next; a floor is never below a token of its store's past."""
        slots = self.seen[name][1:]
        orders = [slot.order for slot in slots if slot.order is not None]
        assert orders == sorted(orders), "the order of what stands there falls"
        known = 0
        for slot in slots:
            known = max(known, slot.token or 0)
            assert max(slot.floor, slot.token or 0) >= known, "the next claim would repeat a token"


def _tokenless(claim: Claim | None) -> Claim | None:
    """A claim as both write it: tokens begin where each store's own numbers are."""
    return None if claim is None else replace(claim, token=None)


@pytest.fixture
def real(site: Site) -> Backend:
    """The store itself."""
    return site.backend()


@pytest.fixture
def fake(site: Site) -> Any:
    """The rules in memory of the kind of store that the site is in."""
    with closing(memory.connect(fresh_url(site.kind.name))) as backend:
        yield backend


def compare(real: Backend, fake: Backend, program: Iterable[tuple[str, str, int]]) -> None:
    """Do the same on both."""
    stem = f"{secrets.token_hex(6)}-"
    ours, theirs = Twin(fake, stem), Twin(real, stem)
    for number, (verb, name, pick) in enumerate(program, start=1):
        expected, found = (twin.act(number, verb, name, pick) for twin in (ours, theirs))
        assert found == expected, f"{number}. {verb} {name!r}: the fake says {expected}, the store {found}"
    for name in NAMES:
        assert theirs.story(name) == ours.story(name)
        for twin in (ours, theirs):
            twin.check_numbers(name)


@every_shared_store
def test_the_fake_does_what_the_store_does(real: Backend, fake: Backend) -> None:
    """Nothing that does not depend on numbers tells the one from the other, where the kinds differ."""
    for program in TELLING:
        for back in (0, 1, 3):
            compare(real, fake, [(verb, "a", back if verb == "claim" else 0) for verb in program.split()])


@every_shared_store
@settings(
    max_examples=EXAMPLES,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # To shrink on a real server takes minutes.
)
@given(program=operations)
def test_the_fake_does_what_the_store_does_in_any_order(
    real: Backend, fake: Backend, program: list[tuple[str, str, int]]
) -> None:
    """The same after any operations on both, on versions of the present and of the past."""
    compare(real, fake, program)


@every_shared_store
def test_the_fake_knows_as_much_of_an_absence(real: Backend, fake: Backend) -> None:
    """Whether the number of what is absent has reached that of every write to another name, or not."""
    stem = f"{secrets.token_hex(6)}-"
    known: list[list[bool]] = []
    for twin in (Twin(fake, stem), Twin(real, stem)):
        told: list[bool] = []
        verbs = ("claim", "renew", "keep", "renew", "keep", "free", "claim", "drop", "remove")
        for number, verb in enumerate(verbs, start=1):
            twin.act(number, verb, "a", 0)
            written, absence = twin.seen["a"][-1].order, twin._read("a/b").order
            assert written is not None and absence is not None
            told.append(absence >= written)
        known.append(told)
    assert known[1] == known[0]


@pytest.mark.parametrize("one", ["etcd", "zookeeper", "consul"])
@pytest.mark.parametrize("other", ["etcd", "zookeeper", "consul"])
def test_the_comparison_tells_kinds_apart(one: str, other: str) -> None:
    """Rules of another kind are found out, or else the comparison would prove nothing."""
    expected = nullcontext() if one == other else pytest.raises(AssertionError)
    with (
        closing(memory.connect(fresh_url(one))) as real,
        closing(memory.connect(fresh_url(other))) as fake,
        expected,
    ):
        for program in TELLING:
            compare(real, fake, [(verb, "a", 0) for verb in program.split()])
