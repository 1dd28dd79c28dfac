"""The part of the conformance suite about keys that a store writes only while a lock's record stands."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import Final

import pytest

from leases.contract import Backend, Conflict, Unknown, absent, names
from leases.errors import ConfigurationError, RecordRefused, StoreUnavailable
from leases.testing._probes import TIMEOUT, applied, awaited, conflicted, long_name, put

BIGGEST: Final = 66_000  # bytes; more than anything that is written under a key

# As keys and as names of locks: what could be taken for a path, a pattern, or an end of either.
ODD: Final = ("a", "A", "a/b", "a/", "/a", "..", ".", "%09", "=09", "a b", "*", "é", "🦊", "%2F", "birth-1")


class GuardedKeys:
    """What a backend must do whose traits say that it guards; `BackendSuite` includes it."""

    def test_a_key_is_written_while_the_record_stands(
        self, backend: Backend, other: Backend, name: str
    ) -> None:
        """It is shown to everybody, and the record stands as before: same version, same bytes."""
        needs_guards(backend)
        slot = put(backend, absent(name))
        assert backend.read_guarded(name, "key", TIMEOUT) is None
        assert applied(backend.write_guarded(slot, "key", b"one", TIMEOUT)) == slot
        assert backend.read_guarded(name, "key", TIMEOUT) == b"one"
        applied(other.write_guarded(slot, "key", b"two", TIMEOUT))
        assert other.read_guarded(name, "key", TIMEOUT) == b"two"
        assert backend.read(name, TIMEOUT) == slot

    def test_a_key_is_not_written_once_the_record_has_changed(self, backend: Backend, name: str) -> None:
        """However it changed: renewed, freed, claimed anew. What stood under the key stands there still."""
        needs_guards(backend)
        stale = [absent(name), put(backend, absent(name))]
        applied(backend.write_guarded(stale[1], "key", b"kept", TIMEOUT))
        stale.append(put(backend, stale[-1]))
        free = applied(backend.swap(stale[-1], None, TIMEOUT))
        for guard in (*stale, absent(name)):
            conflicted(backend.write_guarded(guard, "key", b"late", TIMEOUT))
            conflicted(backend.write_guarded(guard, "new", b"late", TIMEOUT))
        now = put(backend, free)
        for guard in stale if free.version is None else (*stale, free):
            conflicted(backend.write_guarded(guard, "key", b"late", TIMEOUT), now)
            conflicted(backend.write_guarded(guard, "key", None, TIMEOUT), now)
            conflicted(backend.write_guarded(guard, "new", b"late", TIMEOUT), now)
        assert backend.read_guarded(name, "key", TIMEOUT) == b"kept"
        assert backend.read_guarded(name, "new", TIMEOUT) is None
        applied(backend.write_guarded(now, "key", b"now", TIMEOUT))
        assert backend.read_guarded(name, "key", TIMEOUT) == b"now"

    def test_a_key_is_not_guarded_by_a_record_that_was_made_anew(
        self, backend: Backend, other: Backend, name: str
    ) -> None:
        """Deleted and created again, with as many writes as before: no version of the first is one of it."""
        needs_guards(backend)
        guards = [put(backend, absent(name))]
        guards.append(put(backend, guards[0]))
        gone = applied(other.remove(awaited(other, name, guards[1].version), TIMEOUT))
        now = put(other, put(other, gone))
        for guard in reversed(guards):  # The last first: it is the one that could be taken for another.
            conflicted(backend.write_guarded(guard, "key", b"late", TIMEOUT), now)
        applied(backend.write_guarded(now, "key", b"now", TIMEOUT))
        assert backend.read_guarded(name, "key", TIMEOUT) == b"now"

    def test_nothing_guards_where_no_record_ever_stood(self, backend: Backend, name: str) -> None:
        """An absence is no version: whoever would write by it conflicts."""
        needs_guards(backend)
        for guard in (absent(name), backend.read(name, TIMEOUT)):
            conflicted(backend.write_guarded(guard, "key", b"x", TIMEOUT))
        assert backend.read_guarded(name, "key", TIMEOUT) is None

    def test_a_key_outlives_the_record(self, backend: Backend, other: Backend, name: str) -> None:
        """It stays when the lock is released, and when the record is removed, for the next holder to find."""
        needs_guards(backend)
        slot = put(backend, absent(name))
        applied(backend.write_guarded(slot, "key", b"found", TIMEOUT))
        free = applied(backend.swap(slot, None, TIMEOUT))
        if free.version is not None:
            free = applied(backend.remove(free, TIMEOUT))
        assert other.read_guarded(name, "key", TIMEOUT) == b"found"
        applied(backend.write_guarded(put(backend, free), "key", b"next", TIMEOUT))
        assert backend.read_guarded(name, "key", TIMEOUT) == b"next"

    def test_a_key_can_be_deleted_and_written_again(self, backend: Backend, name: str) -> None:
        """What is not there can be deleted, too: it is not there afterwards."""
        needs_guards(backend)
        slot = put(backend, absent(name))
        for _ in range(2):
            applied(backend.write_guarded(slot, "key", None, TIMEOUT))
            assert backend.read_guarded(name, "key", TIMEOUT) is None
            for body in (b"x", b"", b"\0\xff\n", b"x" * BIGGEST):
                applied(backend.write_guarded(slot, "key", body, TIMEOUT))
                assert backend.read_guarded(name, "key", TIMEOUT) == body
        applied(backend.write_guarded(slot, "key", None, TIMEOUT))
        assert backend.read_guarded(name, "key", TIMEOUT) is None

    def test_keys_of_a_lock_do_not_meet(self, backend: Backend, name: str) -> None:
        """Nor do keys of two locks, nor a key and a lock, whatever they are called and however long it is."""
        needs_guards(backend)
        locks = [f"{name}{odd}" for odd in ("", *ODD)]
        keys = [*ODD, name, long_name("", "x"), long_name("", "y")]
        slots = {lock: put(backend, absent(lock)) for lock in (*locks, long_name(name, "z"))}
        written: dict[tuple[str, str], bytes] = {}
        for lock, slot in slots.items():
            for key in keys if lock in (locks[0], long_name(name, "z")) else keys[:3]:
                written[lock, key] = f"{lock}\n{key}".encode()
                applied(backend.write_guarded(slot, key, written[lock, key], TIMEOUT))
        for (lock, key), body in written.items():
            assert backend.read_guarded(lock, key, TIMEOUT) == body
        for lock, slot in slots.items():
            assert backend.read(lock, TIMEOUT) == slot

    def test_no_scan_shows_a_key(self, backend: Backend, name: str) -> None:
        """A scan shows locks alone: with their name, with what keys are called in the store, with nothing."""
        needs_guards(backend)
        slot = put(backend, absent(name))
        for key in ODD:
            applied(backend.write_guarded(slot, key, b"no record", TIMEOUT))
        assert list(backend.scan(name, TIMEOUT)) == [slot]
        assert list(backend.scan("\t", TIMEOUT)) == []
        everything = list(backend.scan("", TIMEOUT))
        assert slot in everything
        assert all(found.name.isprintable() for found in names(everything))
        assert not [found for found in everything if getattr(found, "body", b"") == b"no record"]

    def test_a_key_is_not_guarded_by_what_is_not_ours(
        self, backend: Backend, write_foreign: Callable[[str, bytes], None] | None, name: str
    ) -> None:
        """Where somebody has written something else over the record, nothing is written under the key."""
        needs_guards(backend)
        if write_foreign is None:
            pytest.skip("no way to write past the backend was given")
        slot = put(backend, absent(name))
        write_foreign(name, b"hello")
        with suppress(RecordRefused):  # A store need not tell what stands there.
            assert backend.write_guarded(slot, "key", b"x", TIMEOUT) == Conflict()
        assert backend.read_guarded(name, "key", TIMEOUT) is None

    def test_a_key_is_in_doubt_while_the_store_is_silent(
        self,
        backend: Backend,
        cut_off: Callable[[], AbstractContextManager[object]] | None,
        name: str,
    ) -> None:
        """The write is unknown after its timeout; what is void was not done; a later one is applied."""
        needs_guards(backend)
        if cut_off is None:
            pytest.skip("no way to cut the store off was given")
        slot = put(backend, absent(name))
        with cut_off():
            outcome = backend.write_guarded(slot, "key", b"one", 0.2)
        assert isinstance(outcome, Unknown)
        if outcome.void:
            assert backend.read_guarded(name, "key", TIMEOUT) is None
        slot = put(backend, backend.read(name, TIMEOUT))  # From here on what was unknown cannot land.
        applied(backend.write_guarded(slot, "key", b"two", TIMEOUT))
        assert backend.read_guarded(name, "key", TIMEOUT) == b"two"

    def test_a_closed_backend_writes_no_key(self, backend: Backend, other: Backend, name: str) -> None:
        """Its calls raise `StoreUnavailable`; what it has written stays."""
        needs_guards(backend)
        slot = put(backend, absent(name))
        applied(backend.write_guarded(slot, "key", b"kept", TIMEOUT))
        backend.close()
        for guard in (slot, absent(name)):
            with pytest.raises(StoreUnavailable):
                backend.write_guarded(guard, "key", b"x", TIMEOUT)
        with pytest.raises(StoreUnavailable):
            backend.read_guarded(name, "key", TIMEOUT)
        assert other.read_guarded(name, "key", TIMEOUT) == b"kept"

    def test_a_store_that_cannot_guard_says_so(self, backend: Backend, name: str) -> None:
        """It is a fault of whoever asks, and the error says what to do instead."""
        if backend.traits.guards:
            pytest.skip("this store can")
        slot = put(backend, backend.read(name, TIMEOUT))
        for call in (
            lambda: backend.write_guarded(slot, "key", b"x", TIMEOUT),
            lambda: backend.read_guarded(name, "key", TIMEOUT),
        ):
            with pytest.raises(ConfigurationError, match="fence"):
                call()


def needs_guards(backend: Backend) -> None:
    """Skip where a store has no such transaction."""
    if not backend.traits.guards:
        pytest.skip("this store cannot write a key while a record stands")
