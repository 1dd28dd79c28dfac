"""`connect` and `Store`: what is in a store, and what it shows while it changes."""

from __future__ import annotations

import pickle
import threading
import time
from typing import Any

import pytest

import leases
from leases import ConfigurationError, Lock, RecordRefused, Status, Store, StoreUnavailable, connect
from leases.hub import Hub
from leases.testing.clock import ManualClock
from stores import Site, every_store
from stubborn import Stubborn, another_process, break_, fresh_url, inner, memory, store_on, until


def test_connect_takes_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a URL it is `$LEASES_URL`."""
    url = fresh_url()
    monkeypatch.setenv("LEASES_URL", url)
    with connect() as one, connect(url) as two:
        assert one.hub is two.hub


def test_connect_refuses_what_is_no_url() -> None:
    """The error lists the schemes that can be used."""
    for url in ("nothing:", "//host/path", "", "C:\\x.db"):
        with pytest.raises(ConfigurationError, match="memory, sqlite"):
            connect(url)


def test_status_of_a_held_lock() -> None:
    """It says who holds, by which token, for how long, since when, and what the holder shows."""
    clock = ManualClock()
    store = store_on(clock=clock)
    wall = clock().wall
    with store.lock("job", holder="web-3", ttl=9.0, metadata={"a": "b"}) as lease:
        clock.advance(2.0)
        seen = store.status("job")
        assert seen == Status(
            "job", True, "web-3", lease.token, 9.0, wall, wall, seen.expires_in, None, {"a": "b"}, seen.claim
        )
        assert seen.claim == lease._tenure.machine.claim_id
        # The clocks of this test are nobody's boot, unless the host tells it.
        assert seen.expires_in is None or seen.expires_in == pytest.approx(7.0)
    assert store.status("job") == Status("job", False)


def test_status_where_release_leaves_a_record() -> None:
    """A free record is shown as free, with the time of the release and its successor, if it names one."""
    clock = ManualClock()
    store = store_on(memory("zookeeper"), clock=clock)
    lease = store.lock("job", ttl=9.0).acquire()
    clock.advance(1.0)
    wall = clock().wall
    lease._tenure.release(successor="web-4")
    until(lambda: not store.status("job").held)
    assert store.status("job") == Status("job", False, successor="web-4", renewed=wall)


def test_expiry_is_known_on_this_host() -> None:
    """Where the store is on this host the time left is known at one look; elsewhere it is not."""
    store = store_on()
    if store.hub.boot is None:
        pytest.skip("this host does not tell its boot")
    with store.lock("job", ttl=9.0):
        left = store.status("job").expires_in
        assert left is not None and 8.0 < left <= 9.0
    elsewhere = store_on(memory("etcd"))
    with elsewhere.lock("job", ttl=9.0):
        assert elsewhere.status("job").expires_in is None


@every_store
def test_broken_lock_is_held_by_nobody(site: Site) -> None:
    """A lock that was broken is shown as held until its ttl has passed."""
    store = site.store()
    lease = store.lock("job").acquire()
    break_(store, "job")
    seen = store.status("job")
    assert (seen.held, seen.holder, seen.claim) == (True, "operator", "")
    lease.release()
    assert store.status("job").held


def test_list_is_by_name() -> None:
    """All locks with a prefix, sorted; what is not ours is left out of the list, and shown by the scan."""
    backend = memory()
    store = store_on(backend)
    for name in ("b/2", "a/1", "b/1", "b/3"):
        Lock(name, store=store).acquire()
    backend.write_foreign("b/2", b"mine!")
    assert [each.name for each in store.list()] == ["a/1", "b/1", "b/3"]
    assert [each.name for each in store.list("b/")] == ["b/1", "b/3"]
    assert store.list("c") == []
    found = list(store.scan("b/"))
    assert [type(each) for each in found] == [Status, RecordRefused, Status]
    store.close()


def test_looks_have_a_timeout() -> None:
    """A store that does not answer ends a look in time; a timeout that cannot work is refused."""
    backend = Stubborn()
    store = store_on(backend)
    backend.silent = True
    began = time.monotonic()
    for look in (lambda: store.status("job", timeout=0.05), lambda: store.list(timeout=0.05)):
        with pytest.raises(StoreUnavailable):
            look()
    assert time.monotonic() - began < 5
    bad: Any
    for bad in (0, -1, None, float("nan"), "1", True):
        with pytest.raises(ConfigurationError, match="timeout="):
            store.status("job", timeout=bad)
        with pytest.raises(ConfigurationError):
            next(store.watch("job", poll=bad))


@every_store
def test_watch_shows_every_state(site: Site) -> None:
    """The first state at once, then every change, without being asked for the same twice."""
    backend = site.stubborn()
    store = site.store(backend)
    other = site.another(store)
    seen: list[Status] = []
    shown = threading.Semaphore(0)

    def watch() -> None:
        for status in store.watch("job", poll=60):
            seen.append(status)
            shown.release()
            if len(seen) == 4:
                break

    thread = threading.Thread(target=watch)
    thread.start()
    shown.acquire()
    lease = other.lock("job", holder="web-3").acquire()
    shown.acquire()
    lease.update({"a": "b"})
    shown.acquire()
    lease.release()
    shown.acquire()
    thread.join(10)
    assert [status.held for status in seen] == [False, True, True, False]
    assert seen[2].metadata == {"a": "b"} and seen[1].token == seen[2].token == lease.token
    until(lambda: backend.watching == 0)


def test_watch_looks_without_hints() -> None:
    """S13: where no hint comes, a change is seen at the next look."""
    backend = Stubborn()
    store = store_on(backend)
    watching = store.watch("job", poll=0.02)
    assert next(watching).held is False
    inner(store)._store.watches.clear()
    with another_process(store).lock("job"):
        assert next(watching).held is True
    watching.close()
    assert backend.watching == 0


@every_store
def test_watch_ends_with_its_store(site: Site) -> None:
    """After the close a watch says that its store was closed."""
    store = site.store()
    watching = store.watch("job", poll=0.02)
    next(watching)
    store.close()
    with pytest.raises(StoreUnavailable, match="was closed"):
        next(watching)


def test_watch_of_what_is_not_ours() -> None:
    """A foreign record is refused by the watch too."""
    backend = memory()
    backend.write_foreign("job", b"mine!")
    with pytest.raises(RecordRefused):
        next(store_on(backend).watch("job"))
    with pytest.raises(ConfigurationError):
        next(store_on().watch(""))


@every_store
def test_closed_store_says_so(site: Site) -> None:
    """Everything that is asked of a closed store says that it was closed, and what to do."""
    store = site.store()
    store.close()
    for call in (
        lambda: store.status("job"),
        lambda: store.list(),
        lambda: next(store.watch("job")),
        lambda: store.lock("job"),
        lambda: Lock("job", store=store),
    ):
        with pytest.raises(StoreUnavailable, match="was closed; connect again"):
            call()
    assert repr(store).endswith(" closed>")


@every_store
def test_store_is_a_context_manager_in_both_colours(site: Site) -> None:
    """It is closed at the end, by an error too."""
    import asyncio

    with pytest.raises(KeyError), site.store() as store:
        raise KeyError
    assert repr(store).endswith(" closed>")

    async def main() -> Store:
        async with site.store() as store, store.lock("job") as lease:
            assert lease.held
        return store

    assert repr(asyncio.run(main())).endswith(" closed>")


def test_store_is_not_carried_to_another_process() -> None:
    """Pickling is refused with the next step."""
    with pytest.raises(TypeError, match="connect anew in the other one"):
        pickle.dumps(store_on())


def test_shown_traits_are_the_backends() -> None:
    """A store says what it promises."""
    backend = memory("zookeeper")
    assert store_on(backend).traits is backend.traits


def test_store_made_of_a_hub_counts_once() -> None:
    """A store that is dropped without a close keeps the connection; one that is closed lets go of it."""
    backend = Stubborn()
    hub = Hub(backend)
    one, two = Store(hub), Store(hub)
    one.close()
    assert backend.closed == 0
    two.close()
    assert backend.closed == 1


def test_everything_public_is_there() -> None:
    """What `leases` promises to export exists, and nothing is loaded before it is asked for."""
    import subprocess
    import sys

    for name in leases.__all__:
        assert getattr(leases, name).__name__ == name
    assert set(leases.__all__) <= set(dir(leases))
    with pytest.raises(AttributeError):
        leases.nothing  # noqa: B018
    code = "import leases, sys; print([m for m in sys.modules if m.startswith('leases.')])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"
