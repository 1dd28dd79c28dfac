"""`connect`: one connection for each URL, a look at what is in the store, and how it ends."""

from __future__ import annotations

import asyncio
import copy
import pickle
import queue
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hands import PATIENCE
from leases import (
    ConfigurationError,
    Lease,
    Lock,
    RecordRefused,
    Status,
    Store,
    StoreUnavailable,
    connect,
)
from leases.hub import Hub
from stubborn import Stubborn, break_, fresh_url, inner, store_on

# ---- one connection for each URL -----------------------------------------------------------------


def test_one_url_is_one_connection() -> None:
    """However many stores name a URL, the process has one connection to it, and another for another URL."""
    url = fresh_url()
    with connect(url) as one, connect(url) as two, connect(fresh_url()) as other:
        assert one is not two and one.hub is two.hub
        assert one.hub is not other.hub and one.traits is one.hub.backend.traits


def test_connection_ends_with_the_last_store() -> None:
    """The first close leaves the connection open, the last closes it, and who comes then connects anew."""
    url = fresh_url()
    one, two = connect(url), connect(url)
    hub = one.hub
    one.close()
    assert not hub.closed and two.status("job") == Status("job", held=False)
    two.close()
    assert hub.closed
    with connect(url) as three:
        assert three.hub is not hub and not three.hub.closed


def test_lock_by_url_keeps_the_connection() -> None:
    """A connection that a lock made with the URL itself stays when the last store is closed."""
    url = fresh_url()
    store = connect(url)
    with Lock("job", store=url, timeout=PATIENCE) as lease:
        hub = store.hub
        store.close()
        assert lease.held and not hub.closed
    hub.close()


def test_backend_is_closed_once() -> None:
    """To close a store twice, or after its hub, closes the backend once."""
    backend = Stubborn()
    store = store_on(backend)
    hub = store.hub
    store.close()
    store.close()
    hub.close()
    assert backend.closed == 1


# ---- how it ends ---------------------------------------------------------------------------------


def test_close_loses_what_came_by_it() -> None:
    """Leases that came by a store are lost with it, as `closed`; those of another store are not."""
    url = fresh_url()
    one, two = connect(url), connect(url)
    mine, other = one.lock("mine").acquire(PATIENCE), two.lock("other").acquire(PATIENCE)
    one.close()
    assert not mine.held and mine.lost.reason == "closed"
    assert other.held and not other.lost
    two.close()
    assert not other.held and other.lost.reason == "closed"


def test_close_leaves_the_record() -> None:
    """A lease lost by a close is not released: its work may still run, so its record lasts for the ttl."""
    url = fresh_url()
    with connect(url) as onlooker:
        store = connect(url)
        store.lock("job").acquire(PATIENCE)
        store.close()
        assert onlooker.status("job").held


def test_closed_store_is_refused() -> None:
    """A closed store answers nothing, and says to connect again."""
    store = connect(fresh_url())
    lock = store.lock("job")
    store.close()
    asks: list[Callable[[], object]] = [
        lambda: store.hub, lambda: store.status("job"), lambda: store.list(), lambda: store.lock("other"),
        lambda: next(store.watch("job")), lambda: lock.acquire(1),
    ]  # fmt: skip
    for ask in asks:
        with pytest.raises(StoreUnavailable, match="was closed; connect again"):
            ask()


def test_with_closes_it() -> None:
    """The end of a `with` body closes the store, after an error too, which passes."""
    with connect(fresh_url()) as store:
        hub = store.hub
    assert hub.closed
    store = connect(fresh_url())
    hub = store.hub
    with pytest.raises(KeyError), store:
        raise KeyError
    assert hub.closed


def test_async_with_closes_it() -> None:
    """The end of an `async with` body closes the store, after an error too, which passes."""

    async def body(error: Exception | None) -> Hub:
        async with connect(fresh_url()) as store:
            hub = store.hub
            hubs.append(hub)
            if error is not None:
                raise error
        return hub

    hubs: list[Hub] = []
    assert asyncio.run(body(None)).closed
    with pytest.raises(KeyError):
        asyncio.run(body(KeyError()))
    assert [hub.closed for hub in hubs] == [True, True]


# ---- a look --------------------------------------------------------------------------------------


def test_status_shows_the_tenure() -> None:
    """A held lock shows its holder, token, ttl, times, metadata and claim."""
    store = store_on()
    with store.lock("job", ttl=20, holder="web-1", metadata={"port": "80"}, timeout=PATIENCE) as lease:
        seen = store.status("job")
        assert (seen.name, seen.held, seen.holder, seen.ttl) == ("job", True, "web-1", 20)
        assert seen.token == lease.token and seen.metadata == {"port": "80"}
        assert seen.claim and seen.acquired is not None and seen.renewed is not None
        assert seen.renewed >= seen.acquired
    free = store.status("job")
    assert (free.held, free.holder, free.token, free.claim) == (False, None, None, None)


def test_list_is_by_prefix_and_name() -> None:
    """`list` shows the locks whose names begin so, in the order of their names."""
    store = store_on()
    leases = [store.lock(name).acquire(PATIENCE) for name in ("web/b", "web/a", "db/a")]
    assert [found.name for found in store.list()] == ["db/a", "web/a", "web/b"]
    assert [found.name for found in store.list("web/")] == ["web/a", "web/b"]
    assert store.list("nothing/") == []
    for lease in leases:
        lease.release()


def test_foreign_record_is_left_out_of_list_and_shown_by_scan() -> None:
    """What is not ours is refused by `scan` in its place, left out by `list`, and raised by `status`."""
    store = store_on()
    with store.lock("ours", timeout=PATIENCE):
        inner(store).write_foreign("foreign", b"not a record")
        kinds = [type(found) for found in store.scan()]
        assert sorted(kind.__name__ for kind in kinds) == ["RecordRefused", "Status"]
        assert [found.name for found in store.list()] == ["ours"]
        with pytest.raises(RecordRefused, match="foreign"):
            store.status("foreign")


@pytest.mark.parametrize("timeout", [0, -1, None, float("nan"), float("inf")])
def test_look_needs_a_timeout(timeout: float | None) -> None:
    """A look waits for a positive number of seconds, and anything else is refused before it is asked."""
    backend = Stubborn()
    store = store_on(backend)
    with pytest.raises(ConfigurationError, match="is not a positive number of seconds"):
        store.status("job", timeout=timeout)
    with pytest.raises(ConfigurationError, match="is not a positive number of seconds"):
        store.list(timeout=timeout)
    assert backend.calls == []


def test_expires_in_counts_down_on_this_host(tmp_path: Path) -> None:
    """In a file on this host a held record shows how long it lasts, never more than its ttl."""
    with connect(f"sqlite://{tmp_path}/leases.db") as store:
        assert store.status("job").expires_in is None
        with store.lock("job", ttl=30, timeout=PATIENCE):
            first = store.status("job").expires_in
            second = store.status("job").expires_in
            if store.hub.boot is None:
                pytest.skip("the boot of this host has no identity")
            assert first is not None and second is not None and 0 < second < first <= 30
        assert store.status("job").expires_in is None


def test_expires_in_is_unknown_in_another_boot(tmp_path: Path) -> None:
    """The clock of another boot says nothing here, so no time is shown."""
    with connect(f"sqlite://{tmp_path}/leases.db") as store, store.lock("job", timeout=PATIENCE):
        store.hub.boot = "another"
        assert store.status("job").held and store.status("job").expires_in is None


# ---- watching ------------------------------------------------------------------------------------


def _hear(store: Store, poll: float) -> queue.SimpleQueue[Status]:
    """What a watch of a thread of its own yields, until the lock has metadata that says to end."""
    heard: queue.SimpleQueue[Status] = queue.SimpleQueue()

    def follow() -> None:
        for seen in store.watch("job", poll=poll):
            heard.put(seen)
            if seen.metadata == {"end": "now"}:
                return

    threading.Thread(target=follow, daemon=True).start()
    return heard


def test_watch_yields_now_and_after_each_change() -> None:
    """The first status comes at once, and each change brings another by a hint, long before the poll."""
    store = store_on()
    heard = _hear(store, poll=10 * PATIENCE)
    assert not heard.get(timeout=PATIENCE).held
    lease = store.lock("job", holder="web-1").acquire(PATIENCE)
    assert heard.get(timeout=PATIENCE).holder == "web-1"
    lease.release()
    assert not heard.get(timeout=PATIENCE).held
    lease = store.lock("job", metadata={"end": "now"}).acquire(PATIENCE)
    assert heard.get(timeout=PATIENCE).metadata == {"end": "now"}
    lease.release()


def test_watch_finds_what_no_hint_told() -> None:
    """Where no hint comes, it looks after each poll, and shows only what has changed."""
    backend = Stubborn()
    store = store_on(backend)
    lease = store.lock("job").acquire(PATIENCE)
    watching = store.watch("job", poll=0.01)
    assert next(watching).held
    for watch in list(inner(store)._watches):
        watch.close()
    reads = sum(kind == "read" for kind, _, _ in backend.calls)
    threading.Timer(0.1, break_, (store, "job"), {"now": True}).start()
    assert not next(watching).held
    assert sum(kind == "read" for kind, _, _ in backend.calls) > reads
    watching.close()
    lease.release()


def test_watch_ends_with_its_generator() -> None:
    """A generator that is closed leaves no watch open in the store."""
    backend = Stubborn()
    watching = store_on(backend).watch("job")
    next(watching)
    assert backend.watching == 1
    watching.close()
    assert backend.watching == 0


# ---- what it is ----------------------------------------------------------------------------------


def test_repr_shows_no_secrets() -> None:
    """A store shows the identity that its backend made for people, not its URL, and whether it is closed."""
    store = Store(Hub(Stubborn(), "memory:?password=hunter2"))
    assert repr(store) == f"<Store {store.hub.backend.identity}>"
    store.close()
    assert repr(store).endswith(" closed>") and "hunter2" not in repr(store)


def test_store_stays_in_its_process() -> None:
    """A connected store is not copied or sent elsewhere, and says what to do instead."""
    store = store_on()
    for send in (pickle.dumps, copy.copy):
        with pytest.raises(TypeError, match="connect anew"):
            send(store)


def test_store_makes_locks_on_itself() -> None:
    """`Store.lock` takes the options of `Lock`, and refuses a ttl that the store cannot keep."""
    backend = Stubborn()
    backend.traits = replace(backend.traits, least_ttl=5.0)
    store = store_on(backend)
    lease: Lease = store.lock("job", holder="web-1").acquire(PATIENCE)
    assert lease.holder == "web-1" and store.status("job").held
    lease.release()
    with pytest.raises(ConfigurationError, match="ttl=1 s is below the 5 s"):
        store.lock("other", ttl=1)
