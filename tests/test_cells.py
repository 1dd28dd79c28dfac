"""The rules of each kind of store, where they differ, and what strangers can do to it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from leases.contract import Applied, Conflict, Slot, absent
from leases.errors import RecordRefused
from leases.record import Claim, encode
from leases.testing.cells import Cells, Kind

CLAIM = Claim("web-1", "a" * 32, "b" * 16, 15.0, 7)
OTHER = replace(CLAIM, holder="web-2", beat="c" * 16)

every_kind = pytest.mark.parametrize("kind", Kind)


def put(cells: Cells, seen: Slot, claim: Claim = CLAIM) -> Slot:
    outcome = cells.swap(seen, claim)
    assert isinstance(outcome, Applied)
    return outcome.slot


@every_kind
def test_only_some_stores_number_an_identical_write(kind: Kind) -> None:
    """Consul acknowledges it and makes no new version: the beat in every send is for that."""
    cells = Cells(kind)
    first = put(cells, absent("x"))
    second = put(cells, first)
    silent = kind in (Kind.CONSUL, Kind.UNORDERED)
    assert (second.version == first.version) is silent
    assert put(cells, second, OTHER).version != second.version


@every_kind
def test_only_some_stores_leave_a_free_record(kind: Kind) -> None:
    """The others delete, because their versions are never used again."""
    cells = Cells(kind)
    outcome = cells.swap(put(cells, absent("x")), None)
    assert isinstance(outcome, Applied)
    left = kind in (Kind.ZOOKEEPER, Kind.KUBERNETES, Kind.UNORDERED)
    assert (outcome.slot.claim is not None) is left is not kind.rules.traits.release_deletes
    assert outcome.slot.claim is None or outcome.slot.claim == CLAIM.freed()


@every_kind
def test_what_a_stranger_removed_and_made_again_has_other_versions(kind: Kind) -> None:
    """S25: also where a record counts its own versions from nought again; a stale swap does not hit."""
    cells = Cells(kind)
    old = [put(cells, absent("x"))]
    old.append(put(cells, old[0], OTHER))
    gone = cells.remove("x")
    assert gone.version is None and cells.read("x") == gone
    new = put(cells, gone)
    for seen in old:
        assert isinstance(cells.swap(seen, OTHER), Conflict) and isinstance(cells.swap(seen, None), Conflict)
    assert cells.read("x") == new


def test_zookeeper_counts_versions_per_record() -> None:
    """From nought at each creation; only together with the number of the creation they are unique."""
    cells = Cells(Kind.ZOOKEEPER)
    versions = [put(cells, absent("x")).version]
    versions.append(put(cells, cells.read("x"), OTHER).version)
    cells.remove("x")
    versions.append(put(cells, absent("x")).version)
    assert versions == [(1, 0), (1, 1), (4, 0)]


def test_zookeeper_knows_little_of_what_is_absent() -> None:
    """The parent's last creation or removal, which other records' renewals do not move."""
    cells = Cells(Kind.ZOOKEEPER)
    slot = put(cells, absent("x"))
    for index in range(5):
        slot = put(cells, slot, replace(CLAIM, beat=f"{index:016}"))
    assert (cells.read("y").order, cells.read("y").floor) == (1, 1)
    assert cells.remove("x").order == cells.number == 7


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind.rules.traits.ordered])
def test_an_absence_is_newer_than_what_was_removed(kind: Kind) -> None:
    """Its order is that of the removal at least, and the next token's floor is not below it."""
    cells = Cells(kind)
    last = put(cells, put(cells, absent("x"), replace(CLAIM, token=1)), replace(OTHER, token=2))
    gone = cells.remove("x")
    assert last.order is not None and gone.order is not None
    assert gone.order > last.order and gone.floor >= last.floor


@every_kind
def test_a_foreign_record_is_refused_and_left(kind: Kind) -> None:
    """Whatever bytes a stranger writes: read and swap refuse, a peek shows them, a scan names them."""
    cells = Cells(kind)
    held = put(cells, absent("x"))
    cells.write("x", b"hello")
    for seen in (held, absent("x"), cells.peek("x")):
        for claim in (OTHER, None):
            with pytest.raises(RecordRefused):
                cells.swap(seen, claim)
    assert cells.peek("x").body == b"hello" and cells.peek("x").claim is None
    assert [type(found) for found in cells.scan()] == [RecordRefused]
    cells.write("x", encode(OTHER))
    assert cells.read("x").claim == OTHER


@every_kind
def test_a_clone_goes_its_own_way(kind: Kind) -> None:
    """A backup, a stale replica, or a branch of a search is not touched by what happens afterwards."""
    cells = Cells(kind)
    slot = put(cells, absent("x"))
    twin = cells.clone()
    renewed = put(cells, slot, OTHER)
    assert twin.read("x") == slot and cells.read("x") == renewed and twin.number == 1
    assert put(twin, slot, OTHER) == renewed


@every_kind
def test_the_floor_is_above_every_token_of_the_record(kind: Kind) -> None:
    """Also where the store has no numbers to offer, and where the record's token outran them."""
    cells = Cells(kind)
    slot = put(cells, absent("x"), replace(CLAIM, token=2**70))
    assert slot.floor == 2**70 and cells.read("x").floor == 2**70


def test_only_what_is_local_says_so() -> None:
    """A store over a network must not have its instants compared between processes."""
    local = {kind for kind in Kind if kind.rules.traits.local}
    assert local == {Kind.MEMORY, Kind.SQLITE}
