"""The conformance suite finds what is wrong: stores that break one rule each fail the test of that rule."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest

from leases.contract import Applied, Conflict, Notify, Outcome, Slot, Unknown, Watch, absent
from leases.errors import RecordRefused
from leases.record import Claim
from leases.testing import _probes, suite
from leases.testing.cells import Kind
from leases_backends.memory import Memory, connect


class Honest(Memory):
    """The memory store, with one connection's mistakes to be made below."""

    def __init__(self, kind: Kind = Kind.ETCD) -> None:
        sound = connect(f"memory:itself?kind={kind.value}")
        super().__init__(sound._store, sound.identity)


class SwapsAnything(Honest):
    def swap(self, seen: Slot, claim: Claim | None, timeout: float) -> Outcome:
        return super().swap(super().read(seen.name, timeout), claim, timeout)


class FreesWhatIsAbsent(Honest):
    def swap(self, seen: Slot, claim: Claim | None, timeout: float) -> Outcome:
        outcome = super().swap(seen, claim, timeout)
        return Applied(super().read(seen.name, timeout)) if claim is None else outcome


class ForgetsTheBeat(Honest):
    def swap(self, seen: Slot, claim: Claim | None, timeout: float) -> Outcome:
        return super().swap(seen, claim and replace(claim, beat="0" * 16), timeout)


class FoldsCase(Honest):
    def read(self, name: str, timeout: float) -> Slot:
        return replace(super().read(name.lower(), timeout), name=name)

    def swap(self, seen: Slot, claim: Claim | None, timeout: float) -> Outcome:
        outcome = super().swap(replace(seen, name=seen.name.lower()), claim, timeout)
        return Applied(replace(outcome.slot, name=seen.name)) if isinstance(outcome, Applied) else outcome


class NumbersByName(Honest):
    """As a version that is counted per record, and starts again with each creation."""

    def swap(self, seen: Slot, claim: Claim | None, timeout: float) -> Outcome:
        outcome = super().swap(seen, claim, timeout)
        if isinstance(outcome, Applied) and outcome.slot.held and seen.version is None:
            return Applied(replace(outcome.slot, order=1, version=1))
        return outcome


class IsDeaf(Honest):
    def watch(self, seen: Slot, notify: Notify) -> Watch:
        return super().watch(seen, lambda _: None)


class HearsOnlyFromNowOn(Honest):
    def watch(self, seen: Slot, notify: Notify) -> Watch:
        return super().watch(super().read(seen.name, 1.0), notify)


class ShowsAllInAScan(Honest):
    def scan(self, prefix: str, timeout: float) -> Iterable[Slot | Exception]:
        return super().scan("", timeout)


class StaysOpen(Honest):
    def close(self) -> None:
        pass


class CallsVoidWhatWasDone(Honest):
    def swap(self, seen: Slot, claim: Claim | None, timeout: float) -> Outcome:
        outcome = super().swap(seen, claim, timeout)
        return Unknown(void=True) if timeout == 0 else outcome


class WritesKeysUnguarded(Honest):
    def write_guarded(self, guard: Slot, key: str, body: bytes | None, timeout: float) -> Outcome:
        self._store.cells._guarded[guard.name, key] = body or b""
        return Applied(guard)


class GuardsByTheHolderAlone(Honest):
    """As an owner's name is compared, and not the version."""

    def write_guarded(self, guard: Slot, key: str, body: bytes | None, timeout: float) -> Outcome:
        slot = super().read(guard.name, timeout)
        same = guard.claim and slot.claim and guard.claim.holder == slot.claim.holder
        return super().write_guarded(slot if same else guard, key, body, timeout)


class RenewsWithTheKey(Honest):
    def write_guarded(self, guard: Slot, key: str, body: bytes | None, timeout: float) -> Outcome:
        outcome = super().write_guarded(guard, key, body, timeout)
        return super().swap(guard, guard.claim, timeout) if isinstance(outcome, Applied) else outcome


class MixesKeysUp(Honest):
    def write_guarded(self, guard: Slot, key: str, body: bytes | None, timeout: float) -> Outcome:
        return super().write_guarded(guard, key.rstrip("/"), body, timeout)

    def read_guarded(self, name: str, key: str, timeout: float) -> bytes | None:
        return super().read_guarded(name, key.rstrip("/"), timeout)


class ForgetsKeysWithTheLock(Honest):
    def read_guarded(self, name: str, key: str, timeout: float) -> bytes | None:
        held = super().read(name, timeout).held
        return super().read_guarded(name, key, timeout) if held else None


class ShowsKeysInAScan(Honest):
    def scan(self, prefix: str, timeout: float) -> Iterable[Slot | Exception]:
        keys = [
            RecordRefused(key, "no record", body) for (_, key), body in self._store.cells._guarded.items()
        ]
        return [*super().scan(prefix, timeout), *keys]


class ReadsStrangersAsAbsent(Honest):
    def read(self, name: str, timeout: float) -> Slot:
        slot = self._store.cells.peek(name)
        return absent(name) if slot.claim is None else slot

    def swap(self, seen: Slot, claim: Claim | None, timeout: float) -> Outcome:
        slot = self._store.cells.peek(seen.name)
        stranger = slot.claim is None and slot.version is not None
        return Conflict() if stranger else super().swap(seen, claim, timeout)


S = suite.BackendSuite


@pytest.mark.parametrize(
    ("broken", "test"),
    [
        (SwapsAnything, S.test_a_second_create_conflicts),
        (SwapsAnything, S.test_a_version_that_is_gone_is_never_swapped_or_freed),
        (FreesWhatIsAbsent, S.test_what_is_absent_cannot_be_freed),
        (ForgetsTheBeat, S.test_a_record_comes_back_as_it_was_written),
        (FoldsCase, S.test_different_names_are_different_locks),
        (NumbersByName, S.test_versions_are_not_used_again),
        (NumbersByName, S.test_order_grows_with_every_write),
        (NumbersByName, S.test_tokens_rise_over_every_acquisition),
        (IsDeaf, S.test_a_change_is_hinted),
        (IsDeaf, S.test_many_names_are_watched_at_once),
        (HearsOnlyFromNowOn, S.test_a_change_before_the_watch_is_hinted_at_once),
        (ShowsAllInAScan, S.test_a_scan_shows_the_records_under_a_prefix),
        (ShowsAllInAScan, S.test_a_scan_takes_no_character_for_a_pattern),
        (StaysOpen, S.test_a_closed_backend_says_so),
        (StaysOpen, S.test_a_closed_backend_writes_no_key),
        (WritesKeysUnguarded, S.test_a_key_is_not_written_once_the_record_has_changed),
        (WritesKeysUnguarded, S.test_nothing_guards_where_no_record_ever_stood),
        (GuardsByTheHolderAlone, S.test_a_key_is_not_written_once_the_record_has_changed),
        (RenewsWithTheKey, S.test_a_key_is_written_while_the_record_stands),
        (MixesKeysUp, S.test_keys_of_a_lock_do_not_meet),
        (ForgetsKeysWithTheLock, S.test_a_key_outlives_the_record),
        (ShowsKeysInAScan, S.test_no_scan_shows_a_key),
        (CallsVoidWhatWasDone, S.test_no_time_at_all_is_no_reason_to_hang_or_to_guess),
    ],
    ids=lambda value: value.__name__,
)
def test_a_broken_store_fails(
    broken: Callable[[], Memory], test: Callable[..., None], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The sound store passes the test, the same store with one mistake does not."""
    monkeypatch.setattr(_probes, "TIMEOUT", 0.1)
    run(test, Honest, name)
    with pytest.raises((AssertionError, queue.Empty, pytest.fail.Exception)):
        run(test, broken, f"{name}-broken")


@pytest.mark.parametrize("kind", [Kind.ETCD, Kind.ZOOKEEPER])
def test_a_store_that_takes_strangers_for_nothing_fails(kind: Kind, name: str) -> None:
    """What is not ours has to be refused, not passed over."""
    refuses, sound, broken = (
        S().test_a_foreign_record_is_refused_and_left,
        Honest(kind),
        ReadsStrangersAsAbsent(kind),
    )
    refuses(sound, sound.write_foreign, name, b"hello")
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        refuses(broken, broken.write_foreign, f"{name}-broken", b"hello")


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return f"itself-{abs(hash(request.node.nodeid))}"


def run(test: Callable[..., None], connect: Callable[[], Memory], name: str) -> None:
    """One test of the suite, with the connections that it asks for."""
    wanted = test.__code__.co_varnames[1 : test.__code__.co_argcount]
    given = {"name": name, **{one: connect() for one in ("backend", "other")}}
    test(S(), **{one: given[one] for one in wanted})
