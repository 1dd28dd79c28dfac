"""What a Lease object says, whoever wrote it last, and what we write into one."""

from __future__ import annotations

import json
import secrets
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leases.contract import Slot, absent
from leases.errors import RecordRefused
from leases.record import Claim, State, encode
from leases_backends._kubernetes_lease import RECORD, SPEC, Version, missing, object_of, slot_of
from leases_backends._kubernetes_names import LONGEST, lock_name, object_name

NAME = "job"


class Cluster:
    """One object, numbered as an API server does it."""

    def __init__(self) -> None:
        self.number = 100
        self.whole: dict[str, Any] = {}

    def put(self, whole: dict[str, Any]) -> Slot:
        """What stands there after a write."""
        self.write(whole)
        return self.read()

    def write(self, whole: dict[str, Any]) -> None:
        """Write it, whatever it says."""
        self.number += 1
        copy = json.loads(json.dumps(whole))
        copy["metadata"] |= {"resourceVersion": str(self.number), "uid": "u-1"}
        self.whole = copy

    def read(self, foreign_wait: float = 2.0) -> Slot:
        return slot_of(NAME, self.whole, foreign_wait)

    def swap(self, seen: Slot, claim: Claim) -> Slot:
        return self.put(object_of(NAME, "default", seen, claim, encode(claim)))

    def elect(self, **spec: object) -> Slot:
        """What an elector does: it changes the spec and leaves the rest."""
        whole = self.whole or {"metadata": {"name": NAME}}
        return self.put(whole | {"spec": dict(whole.get("spec", {})) | spec})


def claim(token: int = 7, holder: str = "web-1", **fields: Any) -> Claim:
    made = Claim(
        holder, secrets.token_hex(16), secrets.token_hex(8), 15.0, token, acquired=1.5e9, renewed=1.6e9
    )
    return replace(made, **fields)


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


# What we write.


def test_the_spec_says_what_the_record_says(cluster: Cluster) -> None:
    """For client-go and for people: who, until when, and how often the holder has changed."""
    mine = claim(ttl=2.5)
    slot = cluster.swap(absent(NAME), mine)
    assert slot.claim == mine and slot.body == encode(mine)
    assert cluster.whole["spec"] == {
        "holderIdentity": f"web-1_{mine.id}",
        "leaseDurationSeconds": 3,
        "acquireTime": "2017-07-14T02:40:00.000000Z",
        "renewTime": "2020-09-13T12:26:40.000000Z",
        "leaseTransitions": 0,
    }
    assert cluster.whole["metadata"]["labels"] == {"app.kubernetes.io/managed-by": "leases"}


def test_a_free_lease_is_one_that_client_go_takes_at_once(cluster: Cluster) -> None:
    """Nobody's, for a second, and our record says it as well."""
    slot = cluster.swap(absent(NAME), claim())
    assert slot.claim is not None
    free = cluster.swap(slot, slot.claim.freed())
    assert free.claim == slot.claim.freed() and not free.held
    spec = cluster.whole["spec"]
    assert (spec["holderIdentity"], spec["leaseDurationSeconds"]) == ("", 1)


def test_two_claims_of_one_holder_have_two_identities(cluster: Cluster) -> None:
    """client-go would take its own identity for itself, in the same pod or with the same name (S43, S60)."""
    one, two = claim(holder="pod-1"), claim(holder="pod-1")
    seen: set[str] = set()
    for each in (one, two):
        cluster.swap(absent(NAME), each)
        seen.add(cluster.whole["spec"]["holderIdentity"])
    assert len(seen) == 2


def test_transitions_count_acquisitions(cluster: Cluster) -> None:
    """One more with every claim that is not the last one's, none with a renewal or a release."""
    slot, counts = absent(NAME), list[int]()
    for mine in (claim(), claim(), claim()):
        for beat in ("a" * 16, "b" * 16):
            slot = cluster.swap(slot, replace(mine, beat=beat))
            counts.append(cluster.whole["spec"]["leaseTransitions"])
    assert slot.claim is not None
    slot = cluster.swap(slot, slot.claim.freed())
    counts.append(cluster.whole["spec"]["leaseTransitions"])
    assert counts == [0, 0, 1, 1, 2, 2, 2]
    cluster.elect(leaseTransitions=2**31 - 1)
    cluster.swap(cluster.read(), claim())
    assert cluster.whole["spec"]["leaseTransitions"] == 1


def test_every_renewal_shows_in_the_spec(cluster: Cluster) -> None:
    """client-go compares nothing else; so `renewTime` grows though the clock stands still or goes back."""
    mine = claim()
    slot, times = absent(NAME), list[str]()
    for seconds in (0.0, 0.0, -3600.0, 0.0000004, 10.0):
        mine = replace(mine, beat=secrets.token_hex(8), renewed=1.6e9 + seconds)
        slot = cluster.swap(slot, mine)
        times.append(cluster.whole["spec"]["renewTime"])
    assert times == sorted(set(times))


def test_what_is_not_ours_stays_as_it_was(cluster: Cluster) -> None:
    """Labels, owners, finalizers and others' annotations are written back as they were read."""
    strange = {"labels": {"a": "b"}, "finalizers": ["x/y"], "ownerReferences": [{"uid": "u"}]}
    cluster.put({"metadata": {"name": NAME, "annotations": {"k": "v"}, "managedFields": [{}], **strange}})
    cluster.swap(cluster.read(), claim())
    metadata = cluster.whole["metadata"]
    assert {key: metadata[key] for key in strange} == strange
    assert metadata["annotations"]["k"] == "v" and "managedFields" not in metadata


@pytest.mark.parametrize("instant", [-1e300, -1.0, 0.0, 253402300799.0, 1e300])
def test_no_instant_is_too_odd_to_be_written(cluster: Cluster, instant: float) -> None:
    """Times are for people; a clock that is wrong must not keep a lock from being written."""
    mine = claim(acquired=instant, renewed=instant)
    slot = cluster.swap(cluster.swap(absent(NAME), mine), replace(mine, beat="c" * 16))
    assert slot.held and cluster.whole["spec"]["acquireTime"].endswith("Z")


# What others write.


def test_what_client_go_writes_is_a_claim(cluster: Cluster) -> None:
    """Nobody's of ours, for twice its duration, or as many times as the URL says (S49)."""
    cluster.elect(holderIdentity="ctl-1_x", leaseDurationSeconds=15, leaseTransitions=3, renewTime="?")
    slot = cluster.read()
    assert slot.held and slot.claim is not None
    assert (slot.claim.holder, slot.claim.id, slot.claim.ttl) == ("ctl-1_x", "", 30.0)
    again = cluster.read(foreign_wait=3.0).claim
    assert again is not None and again.ttl == 45.0


def test_its_renewals_are_versions_and_bytes(cluster: Cluster) -> None:
    """Whoever waits sees each of them."""
    first = cluster.elect(
        holderIdentity="c", leaseDurationSeconds=15, renewTime="2026-01-01T00:00:00.000000Z"
    )
    second = cluster.elect(renewTime="2026-01-01T00:00:02.000000Z")
    assert first.version != second.version and first.body != second.body


def test_our_record_is_history_when_client_go_has_written_since(cluster: Cluster) -> None:
    """We release, it takes the Lease and keeps our annotation: the next of ours must not enter (S59)."""
    slot = cluster.swap(absent(NAME), claim(token=900))
    assert slot.claim is not None
    cluster.swap(slot, slot.claim.freed())
    taken = cluster.elect(holderIdentity="ctl-1", leaseDurationSeconds=15, leaseTransitions=1)
    assert RECORD in cluster.whole["metadata"]["annotations"]
    assert taken.held and taken.claim is not None and taken.claim.holder == "ctl-1"
    assert taken.floor >= 900


def test_a_lease_that_client_go_has_released_is_free(cluster: Cluster) -> None:
    """Over our record too, whether that says held or free, once somebody else held it in between."""
    slot = cluster.swap(absent(NAME), claim(token=900))
    cluster.elect(holderIdentity="ctl-1", leaseDurationSeconds=15, leaseTransitions=1)
    freed = cluster.elect(holderIdentity="", leaseDurationSeconds=1, leaseTransitions=1)
    assert not freed.held and freed.claim is not None and freed.claim.state is State.FREE
    assert freed.floor >= 900 and freed.claim.token == 900
    assert cluster.swap(freed, claim(token=901)).held and slot.held


def test_a_release_that_empties_a_live_lease_frees_nothing(cluster: Cluster) -> None:
    """client-go's names no version: ours still holds, knows its record again and renews it."""
    mine = claim()
    slot = cluster.swap(absent(NAME), mine)
    emptied = cluster.elect(holderIdentity="", leaseDurationSeconds=1)
    assert emptied.claim == mine and emptied.version != slot.version
    renewed = cluster.swap(emptied, replace(mine, beat="d" * 16))
    assert renewed.held and cluster.whole["spec"]["holderIdentity"] == f"web-1_{mine.id}"
    assert cluster.whole["spec"]["leaseTransitions"] == 0


@pytest.mark.parametrize("spec", [{}, {"holderIdentity": ""}, {"leaseDurationSeconds": 1}])
def test_a_spec_that_somebody_has_emptied_altogether_frees_nothing(
    cluster: Cluster, spec: dict[str, object]
) -> None:
    """It does not say that anybody held after us, whose work may go on."""
    cluster.elect(holderIdentity="ctl-1", leaseDurationSeconds=15, leaseTransitions=3)
    mine = claim()
    assert cluster.swap(cluster.read(), mine).held
    cluster.whole["spec"] = spec
    assert cluster.put(cluster.whole).claim == mine


def test_an_edited_label_is_nobody_s_write(cluster: Cluster) -> None:
    """The claim is the same, at another version (S71)."""
    slot = cluster.swap(absent(NAME), claim())
    cluster.whole["metadata"]["labels"] = {"new": "label"}
    edited = cluster.put(cluster.whole)
    assert (edited.claim, edited.body) == (slot.claim, slot.body) and edited.version != slot.version


def test_an_object_without_anything_is_free(cluster: Cluster) -> None:
    """`kubectl create` makes such a Lease, and whoever comes first has it."""
    cluster.put({"metadata": {"name": NAME}})
    assert not cluster.read().held and cluster.read().version is not None


@pytest.mark.parametrize(
    ("spec", "word"),
    [
        ({"holderIdentity": "c"}, "leaseDurationSeconds"),
        ({"holderIdentity": "c", "leaseDurationSeconds": 0}, "leaseDurationSeconds"),
        ({"holderIdentity": "c", "leaseDurationSeconds": -1}, "leaseDurationSeconds"),
        ({"holderIdentity": "c", "leaseDurationSeconds": "15"}, "leaseDurationSeconds"),
        ({"holderIdentity": "c", "leaseDurationSeconds": 2**31 - 1}, "longer"),
        (
            {"holderIdentity": "c", "leaseDurationSeconds": 15, "strategy": "OldestEmulationVersion"},
            "strategy",
        ),
        ({"strategy": "OldestEmulationVersion", "preferredHolder": "c"}, "strategy"),
    ],
)
def test_what_cannot_be_relied_on_is_refused(cluster: Cluster, spec: dict[str, object], word: str) -> None:
    """The error shows the spec."""
    cluster.write({"metadata": {"name": NAME}, "spec": spec})
    with pytest.raises(RecordRefused, match=word) as refused:
        cluster.read()
    assert json.loads(refused.value.body) == spec


def test_an_elector_of_the_old_kind_is_refused(cluster: Cluster) -> None:
    """Its record in an annotation is none of ours; ConfigMaps, where it usually is, are not looked at."""
    old = '{"holderIdentity":"c","leaseDurationSeconds":15}'
    annotations = {"control-plane.alpha.kubernetes.io/leader": old}
    cluster.write({"metadata": {"name": NAME, "annotations": annotations}})
    with pytest.raises(RecordRefused) as refused:
        cluster.read()
    assert refused.value.body == old.encode()


def test_a_record_that_cannot_be_read_is_refused_whatever_the_spec_says(cluster: Cluster) -> None:
    """Without its token nobody knows which is the next."""
    slot = cluster.swap(absent(NAME), claim())
    cluster.whole["metadata"]["annotations"][RECORD] = ""
    with pytest.raises(RecordRefused):
        cluster.put(cluster.whole)
    with pytest.raises(RecordRefused):
        cluster.elect(holderIdentity="c", leaseDurationSeconds=15)
    assert slot.held


def test_a_record_without_its_spec_beside_it_is_history(cluster: Cluster) -> None:
    """Nobody knows who wrote last: the spec is what stands."""
    cluster.swap(absent(NAME), claim(ttl=15.0))
    del cluster.whole["metadata"]["annotations"][SPEC]
    slot = cluster.put(cluster.whole)
    assert slot.held and slot.claim is not None and (slot.claim.id, slot.claim.ttl) == ("", 30.0)


# Versions.


def test_a_version_is_an_object_and_its_number() -> None:
    """Of an object that was removed and made anew, nothing is mistaken for the old one's."""
    assert Version("u-1", "7", {}) == Version("u-1", "7", {"more": 1})
    assert Version("u-1", "7", {}) != Version("u-2", "7", {}) != Version("u-2", "8", {})
    assert len({Version("u-1", "7", {}), Version("u-1", "7", {"more": 1})}) == 1


def test_numbers_of_any_length_have_an_order_and_other_texts_have_none(cluster: Cluster) -> None:
    """Python's integers go as far as a resourceVersion may."""
    assert missing(NAME, str(2**128 - 1)).floor == 2**128 - 1
    odd = missing(NAME, "a7f3")
    assert (odd.order, odd.floor) == (None, 0)
    cluster.swap(absent(NAME), claim(token=41))
    cluster.whole["metadata"]["resourceVersion"] = "a7f3"
    slot = cluster.read()
    assert (slot.order, slot.floor) == (None, 41)


# Names.


@pytest.mark.parametrize(
    ("lock", "called"),
    [
        ("my-app", "my-app"),
        ("a.b-c.0", "a.b-c.0"),
        ("a", "a"),
        ("orders/42", "x--orders-2f42"),
        ("A", "x---41"),
        ("x--a", "x--x-2d-2da"),
        ("a..b", "x--a-2e-2eb"),
        ("-a", "x---2da"),
        ("é", "x---c3-a9"),
    ],
)
def test_a_lock_has_its_own_name_where_it_can(lock: str, called: str) -> None:
    """`kubectl get lease` shows it; what no object may be called is escaped."""
    assert object_name(lock) == called and lock_name(called) == lock


LOCKS = st.one_of(
    st.text(min_size=1, max_size=80).filter(lambda text: len(text.encode()) <= 256),
    st.text("ax-.0/", min_size=1, max_size=256),
    st.text("🦊x", min_size=60, max_size=64),
)


@given(LOCKS, LOCKS)
def test_no_two_locks_share_an_object(one: str, two: str) -> None:
    """And from every object that was named so, the lock is known again."""
    for lock in (one, two):
        called = object_name(lock)
        assert len(called) <= LONGEST and lock_name(called, lock) == lock
    assert (object_name(one) == object_name(two)) == (one == two)


@given(st.text("abx-.f0", min_size=1, max_size=40))
def test_an_object_that_no_lock_is_called_by_is_none_of_ours(called: str) -> None:
    """Whatever name an object has, the lock that is read from it has that object and no other."""
    lock = lock_name(called)
    if lock is not None and lock == called:
        return
    assert lock is None or object_name(lock) == called


def test_a_hash_without_its_note_is_nobody_s() -> None:
    """The name of a lock that is too long stands beside its record, and is checked."""
    lock = "n" * 256
    called = object_name(lock)
    assert lock_name(called) is None and lock_name(called, "m" * 256) is None
    assert lock_name(called, lock) == lock
