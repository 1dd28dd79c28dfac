"""A key that is guarded by its lock's own record: ends of a lease, doubt, old news, and what cannot work."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from leases import ConfigurationError, Lease, RecordRefused, Store, StoreUnavailable, connect
from leases.contract import Applied, Conflict, Unknown, absent, beside
from leases.errors import NotCurrent, WriteUnknown
from leases.fencing import GuardedKey, Level
from leases.testing._probes import applied, conflicted, in_child, put
from leases_backends import sqlite
from stubborn import Stubborn, store_on, until

TTL = 30.0


def hold(store: Store, holder: str = "web-1") -> Lease:
    """The lock, held."""
    return store.lock("job", ttl=TTL, holder=holder, timeout=10.0).acquire()


def value(key: GuardedKey) -> bytes | None:
    """What stands there."""
    found = key.read()
    return None if found is None else found.value


# Leases that are over, and some that are not.


def test_a_lease_whose_store_was_closed_is_refused() -> None:
    """Its record stands until it expires, and nobody of this process may write by it any more."""
    store, other = store_on(backend := Stubborn()), store_on(backend.inner)
    lease = hold(store)
    store.close()
    with pytest.raises(NotCurrent, match="closed"):
        GuardedKey("job", "position", store=other).write(lease, b"x")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_is_refused(tmp_path: Path) -> None:
    """The lease is the parent's, which goes on writing."""
    with connect(f"sqlite:{tmp_path / 'leases.db'}") as store:
        key = GuardedKey("job", "position", store=store)
        with hold(store) as lease:

            def child() -> None:
                with pytest.raises(NotCurrent, match="forked"):
                    key.write(lease, b"child")

            assert in_child(child) == 0
            key.write(lease, b"parent")
            assert value(key) == b"parent"


def test_a_lease_that_has_run_out_writes_until_it_is_succeeded() -> None:
    """Time is no matter: as long as its record stands no later tenure is there to be harmed."""
    backend = Stubborn()
    store = store_on(backend)
    key = GuardedKey("job", "position", store=store)
    lease = store.lock("job", ttl=0.2).acquire()
    lease.renew_until(0.0)
    assert lease.lost.wait(10) and lease.lost.reason == "expired"
    key.write(lease, b"late, and harmless")
    with store_on(backend.inner).lock("job", ttl=TTL), pytest.raises(NotCurrent, match="expired"):
        key.write(lease, b"late")
    assert value(key) == b"late, and harmless"
    lease.release()


def test_a_copy_of_the_process_ends_the_writes_of_the_original() -> None:
    """S35: where two write by one claim, whoever finds out is refused, although the claim is its own."""
    store = store_on()
    key = GuardedKey("job", "position", store=store)
    lease = hold(store)
    backend = store.hub.backend
    slot = backend.read("job", 1.0)
    assert slot.claim is not None
    assert isinstance(backend.swap(slot, replace(slot.claim, beat="0123456789abcdef"), 1.0), Applied)
    with pytest.raises(NotCurrent, match="superseded"):
        key.write(lease, b"x")


# What nobody knows.


def test_a_write_without_an_answer_may_have_been_done() -> None:
    """It is told as unknown, and not as refused; writing it again is harmless, whatever became of it."""
    store = store_on(backend := Stubborn())
    key = GuardedKey("job", "position", store=store)
    with hold(store) as lease:
        backend.after = lambda kind, outcome: Unknown() if kind == "guarded" else outcome
        with pytest.raises(WriteUnknown, match="may have been written") as unknown:
            key.write(lease, b"one")
        error = unknown.value
        assert (error.name, error.key, error.token) == ("job", "position", lease.token)
        assert isinstance(error, ConnectionError)
        backend.after = lambda kind, outcome: outcome
        assert value(key) == b"one"  # This time it was.
        key.write(lease, b"one")


def test_what_was_surely_not_done_is_sent_again() -> None:
    """A store that is busy for a moment costs time alone; one that stays so is told as out of reach."""
    store = store_on(backend := Stubborn())
    key = GuardedKey("job", "position", store=store)
    with hold(store) as lease:
        backend.down = True
        soon = threading.Timer(0.15, setattr, (backend, "down", False))
        soon.start()
        key.write(lease, b"at last")
        backend.down = True
        with pytest.raises(StoreUnavailable, match=r"was not written in 0.2 s: it is down") as trouble:
            GuardedKey("job", "position", store=store, timeout=0.2).write(lease, b"never")
        assert not isinstance(trouble.value, WriteUnknown)
        backend.down = False
        assert value(key) == b"at last"
        soon.join()


@pytest.mark.parametrize("told", [True, False], ids=["told", "not-told"])
def test_old_news_is_no_refusal(told: bool) -> None:
    """S66: a replica that lags shows an earlier tenure's record; it is asked again until it has caught up."""
    store = store_on(backend := Stubborn())
    earlier = hold(store)
    old = backend.inner.read("job", 1.0)
    earlier.release()
    with hold(store) as lease:
        key = GuardedKey("job", "position", store=store)
        answers: list[Any] = [Conflict(old if told else None)] * 2

        def after(kind: str, outcome: Any) -> Any:
            if kind == "guarded" and answers:
                return answers.pop()
            return old if kind == "read" and answers and not told else outcome

        backend.after = after
        key.write(lease, b"one")
        assert not answers and lease.held
        backend.after = lambda kind, outcome: outcome
        assert value(key) == b"one"


@pytest.mark.parametrize("colour", ["threads", "asyncio"])
def test_metadata_waits_for_a_write_that_met_other_metadata(colour: str) -> None:
    """It is sent as soon as the write is over; before, the record's version would move again and again."""
    store = store_on(backend := Stubborn())
    with hold(store) as lease:
        wish = {"step": "packing"}
        update = (lambda: lease.update(wish)) if colour == "threads" else _in_a_loop(lease, wish)
        updating = threading.Thread(target=update)
        with lease.calm(), lease.calm():
            updating.start()
            until(lambda: lease._bells)
            with pytest.raises(TimeoutError):
                lease.update({"step": "too soon"}, timeout=0.02)
            assert [kind for kind, *_ in backend.calls] == ["swap"]
        updating.join(5)  # long before a renewal that is due by time
        assert not updating.is_alive() and lease.metadata == wish


def test_a_write_that_met_metadata_keeps_more_from_being_sent() -> None:
    """From the first conflict on, and until it is written."""
    store = store_on(backend := Stubborn())
    with hold(store) as lease:
        calm: list[int] = []
        backend.before = lambda kind, name: calm.append(lease._calm) if kind == "guarded" else None
        conflicts = [Conflict(), Conflict()]
        backend.after = lambda kind, outcome: conflicts.pop() if kind == "guarded" and conflicts else outcome
        GuardedKey("job", "position", store=store).write(lease, b"x")
        assert calm[0] == lease._calm == 0 and all(calm[1:]) and len(calm) == 3


def _in_a_loop(lease: Lease, metadata: dict[str, str]) -> Callable[[], None]:
    return lambda: asyncio.run(lease.update_async(metadata))


# What cannot work.


def test_renewals_that_never_end_are_given_up() -> None:
    """The loop is bounded by the timeout, and says what kept it."""
    store = store_on(backend := Stubborn())
    backend.after = lambda kind, outcome: Conflict() if kind == "guarded" else outcome
    key = GuardedKey("job", "position", store=store, timeout=0.1)
    never = pytest.raises(StoreUnavailable, match=r"was not written in 0.1 s: its holder renews it")
    with hold(store) as lease, never:
        key.write(lease, b"x")
    assert len([kind for kind, *_ in backend.calls if kind == "guarded"]) < 10  # It rests in between.


@pytest.mark.parametrize(
    ("name", "key", "options"),
    [
        ("", "k", {}),
        ("job", "", {}),
        ("job", "a\tb", {}),
        ("job", "k" * 257, {}),
        ("job", 7, {}),
        ("job", "k", {"store": 7}),
        ("job", "k", {"store": "nothing:"}),
        ("job", "k", {"timeout": -1}),
        ("job", "k", {"timeout": "5"}),
        ("job", "k", {"timeout": 0}),
        ("job", "k", {"timeout": None}),
    ],
)
def test_what_cannot_work_is_refused_at_construction(name: Any, key: Any, options: dict[str, Any]) -> None:
    """Names, keys, stores and timeouts."""
    with pytest.raises(ConfigurationError):
        GuardedKey(name, key, **options)


def test_a_value_has_a_limit() -> None:
    """64 KiB fit, and one byte more is refused before the store is asked; so is what is no value."""
    store = store_on()
    key = GuardedKey("job", "position", store=store)
    with hold(store) as lease:
        key.write(lease, b"x" * 65_536)
        with pytest.raises(ConfigurationError, match="65537 bytes"):
            key.write(lease, b"x" * 65_537)
        for none in (5, None, ["text"]):
            with pytest.raises(ConfigurationError, match="neither text nor bytes"):
                key.write(lease, none)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    assert value(key) == b"x" * 65_536


def test_a_store_that_cannot_is_refused_before_anything_is_sent() -> None:
    """At construction where it is connected, else with the first call; the error says what to do instead."""
    refused = pytest.raises(ConfigurationError, match=r"kubernetes cannot .*; keep the lock in a store")
    with connect("memory:guarded?kind=kubernetes") as store, refused:
        GuardedKey("job", "position", store=store)
    with pytest.raises(ConfigurationError, match="another fence"):
        GuardedKey("job", "position", store="memory:guarded?kind=kubernetes").read()


def test_a_lease_in_another_store_is_refused() -> None:
    """Versions of two stores have nothing to do with each other, and could be equal."""
    store, other = store_on(), store_on()
    with hold(store) as lease, pytest.raises(ConfigurationError, match="pass the same store="):
        GuardedKey("job", "position", store=other).write(lease, b"x")


def test_what_a_stranger_has_written_is_shown_and_not_read() -> None:
    """Bytes without the line that says who wrote them are refused, whatever is wrong with that line."""
    store = store_on()
    key = GuardedKey("job", "position", store=store)
    with hold(store) as lease:
        backend = store.hub.backend
        for body in (b"", b"hello", b"[]\nx", b'{"format":2}\nx', b'{"format":1,"token":"1"}\nx', b"\xff\nx"):
            backend.write_guarded(backend.read("job", 1.0), "position", body, 1.0)
            with pytest.raises(RecordRefused, match='key "position" holds what was not written') as refused:
                key.read()
            assert refused.value.body == body
        key.write(lease, b"ours again")
        assert value(key) == b"ours again"


def test_a_foreign_record_in_place_of_the_lock_is_refused() -> None:
    """Nothing is written by the guard of what is not ours."""
    store = store_on()
    key = GuardedKey("job", "position", store=store)
    lease = hold(store)
    inner: Any = store.hub.backend
    inner.write_foreign("job", b"hello")
    with pytest.raises(RecordRefused):
        key.write(lease, b"x")
    assert key.read() is None


def test_it_says_its_level() -> None:
    """The strongest of the table, and it needs no seal."""
    key = GuardedKey("job", "position", store="memory:")
    assert key.level is Level.GUARDED and not hasattr(key, "seal")
    assert repr(key) == '<GuardedKey "position" of lock "job">'


@pytest.mark.parametrize("numbers", [1_000_000, 0], ids=["enough-numbers", "numbers-run-out"])
def test_in_a_file_it_is_on_the_disk(tmp_path: Path, numbers: int) -> None:
    """Each commit of a guarded write waits for the disk, and none of a lock's does, before it or after it."""
    path = str(tmp_path / "leases.db")
    with closing(sqlite.connect(f"sqlite:{path}")) as backend:
        slot = put(backend, absent("job"))
        db: Any = backend._file._db
        db.execute(
            "UPDATE sequence SET ceiling = last + ?", (numbers,)
        )  # At the limit others are made first.
        waits, commits = [False], list[bool]()

        def see(statement: str) -> None:
            if statement.startswith("PRAGMA synchronous"):
                waits.append(statement.endswith("FULL"))
            if statement == "COMMIT":
                commits.append(waits[-1])

        db.set_trace_callback(see)
        applied(backend.write_guarded(slot, "position", b"x", 10.0))
        conflicted(backend.write_guarded(absent("job"), "position", b"y", 10.0))
        applied(backend.write_guarded(slot, "position", None, 10.0))
        assert commits and all(commits)
        commits.clear()
        put(backend, slot)
        assert commits == [False]


def test_no_list_shows_a_key() -> None:
    """What lists, watches and prunes locks has nothing to do with what lies beside them."""
    store = store_on()
    with hold(store) as lease:
        GuardedKey("job", "position", store=store).write(lease, b"x")
        assert [status.name for status in store.list()] == ["job"]
        assert [getattr(found, "name", "") for found in store.scan()] == ["job"]
        assert store.prune(dry_run=True, older_than=0, wait=0.01)[0].name == "job"
    assert store.list() == [] and beside("job", "position").isprintable() is False
