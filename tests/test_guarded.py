"""A key that is guarded by its lock's own record: who may write it, on every store that can."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from lab.places import Place, every_guarding_place
from leases import Lease, Store, connect
from leases.errors import ForeignToken, NotCurrent, WriteUnknown
from leases.fencing import GuardedKey, Token
from servers.proxy import Way
from stores import Site, every_guarding_store
from stubborn import until

TTL = 30.0
DOOMED = 0.4  # seconds for which an answer is waited for that cannot come


@pytest.fixture
def store(site: Site) -> Store:
    return site.store()


@pytest.fixture
def key(store: Store) -> GuardedKey:
    return GuardedKey("job", "position", store=store)


def hold(store: Store, holder: str = "web-1") -> Lease:
    """The lock, held."""
    return store.lock("job", ttl=TTL, holder=holder, timeout=10.0).acquire()


def value(key: GuardedKey) -> bytes | None:
    """What stands there."""
    found = key.read()
    return None if found is None else found.value


def crash(store: Store) -> None:
    """Whoever holds is gone, and somebody who knows has freed the lock for it."""
    token = store.status("job").token
    assert token is not None
    store.break_lock("job", if_token=token, now=True)


# What passes.


@every_guarding_store
def test_the_tenure_that_holds_writes(store: Store, key: GuardedKey, site: Site) -> None:
    """What it wrote is shown to all, with its token and its holder, and can be written over and removed."""
    assert key.read() is None
    before = time.time()
    with hold(store) as lease:
        key.write(lease, b"\0 one \n two")
        found = GuardedKey("job", "position", store=site.store()).read()
        assert found is not None
        assert (found.value, found.token, found.token.holder) == (
            b"\0 one \n two",
            Token.of(lease),
            "web-1",
        )
        assert before - 1 <= found.at <= time.time() + 1
        key.write(lease, "naïve")
        assert value(key) == "naïve".encode()
        key.delete(lease)
        key.delete(lease)
        assert key.read() is None
        key.write(lease, b"")
        assert value(key) == b""
    assert value(key) == b""  # for whoever holds next


@every_guarding_store
def test_writes_pass_while_the_lease_is_renewed_all_the_time(store: Store, key: GuardedKey) -> None:
    """A renewal of our own moves the record's version under a write; the write finds out, and passes."""
    over = threading.Event()
    with hold(store) as lease:
        renewals = threading.Thread(target=_renew, args=(lease, over))
        renewals.start()
        try:
            for number in range(30):
                key.write(lease, str(number))
                assert value(key) == str(number).encode()
        finally:
            over.set()
            renewals.join()
        assert lease.held and lease.metadata["renewals"] > "0"


def _renew(lease: Lease, over: threading.Event) -> None:
    number = 0
    while not over.is_set():
        number += 1
        lease.update({"renewals": str(number)})


@every_guarding_store
def test_another_process_writes_by_the_token_that_it_was_sent(site: Site, key: GuardedKey) -> None:
    """A worker that holds nothing writes for the tenure whose token came with a request, and for no other."""
    worker = GuardedKey("job", "position", store=site.store())
    with hold(site.store()) as lease:
        sent = str(Token.of(lease))
        worker.write(Token.parse(sent), b"by the worker")
        worker.write(Token("job", lease.token), b"without a holder")
        for wrong in (
            Token("job", lease.token + 1),
            Token("job", lease.token - 1),
            Token("job", lease.token, "web-2"),
        ):
            with pytest.raises(NotCurrent, match=r"web-1 holds the lock with token \d+"):
                worker.write(wrong, b"x")
    with pytest.raises(NotCurrent, match="nobody holds"):
        worker.write(Token.parse(sent), b"late")
    assert value(key) == b"without a holder"


@every_guarding_store
def test_awaited_it_is_the_same(store: Store, key: GuardedKey) -> None:
    """The twins write, read, remove and refuse alike."""

    async def main() -> None:
        async with store.lock("job", ttl=TTL) as lease:
            await key.write_async(lease, b"one")
            found = await key.read_async()
            assert found is not None and found.value == b"one"
            await key.delete_async(lease)
            assert await key.read_async() is None
        with pytest.raises(NotCurrent):
            await key.write_async(lease, b"late")

    asyncio.run(main())


# What is refused.


@every_guarding_store
def test_an_earlier_tenure_is_refused_although_nobody_has_written_since(site: Site, key: GuardedKey) -> None:
    """The middle holder died before its first write. By the record the late write is refused all the same.

    Its own tenure is judged, not its name: the same holder has the lock again.
    """
    shard1, shard2 = site.stubborn(), site.store()
    store1 = site.store(shard1)
    first = GuardedKey("job", "position", store=store1)
    stopped = hold(store1, "shard-1")
    first.write(stopped, b"R0")
    shard1.down = True  # It renews nothing, and hears of nothing.
    crash(shard2)
    middle = hold(shard2, "shard-2")
    token = Token.of(middle)
    crash(shard2)  # It dies, and has written nothing.
    again = hold(site.store(), "shard-1")
    shard1.down = False
    assert stopped.held  # by the clock; nobody has told it yet
    for late in (stopped, Token.of(stopped), token):
        with pytest.raises(NotCurrent):
            first.write(late, b"R1")
        with pytest.raises(NotCurrent):
            first.delete(late)
    assert value(key) == b"R0"
    key.write(again, b"R2")
    assert value(key) == b"R2"


@every_guarding_store
def test_a_refused_write_tells_the_lease_of_its_end(site: Site) -> None:
    """Whoever is shown another's record has lost, and need not wait for its next renewal to be told."""
    backend = site.stubborn()
    stale = site.store(backend)
    lease = hold(stale)
    crash(other := site.store())
    with hold(other, "web-2"):
        assert lease.held
        with pytest.raises(NotCurrent) as refused:
            GuardedKey("job", "position", store=stale).write(lease, b"x")
        assert not lease.held and lease.lost.reason == "superseded"
        assert (refused.value.name, refused.value.given) == ("job", lease.token)


@every_guarding_store
def test_a_released_lease_is_refused(store: Store, key: GuardedKey) -> None:
    """The lock is free, and nobody has it since."""
    with hold(store) as lease:
        key.write(lease, b"kept")
    for late in (lease, Token.of(lease)):
        with pytest.raises(NotCurrent):
            key.write(late, b"late")
    assert value(key) == b"kept"


@every_guarding_store
def test_a_lease_that_was_passed_on_within_the_process_is_refused(site: Site, key: GuardedKey) -> None:
    """The next thread has inherited the record, and may not have written its own claim onto it yet."""
    backend = site.stubborn()
    store = site.store(backend)
    first = hold(store)
    got: list[Lease] = []
    waiting = threading.Thread(target=lambda: got.append(hold(store, "web-2")))
    waiting.start()
    until(lambda: store.hub.waiters("job"))
    backend.gate.clear()  # The record stands as the first has left it.
    first.release()
    try:
        with pytest.raises(NotCurrent, match="released"):
            key.write(first, b"late")
    finally:
        backend.gate.set()
        waiting.join()
    GuardedKey("job", "position", store=store).write(got[0], b"mine")
    assert value(key) == b"mine"
    got[0].release()


@every_guarding_store
@pytest.mark.parametrize("now", [False, True], ids=["waits", "now"])
def test_a_broken_lock_is_refused(site: Site, key: GuardedKey, now: bool) -> None:
    """Whether it is free at once or others wait: from the break on its holder writes no more."""
    lease = hold(store := site.store())
    mine = GuardedKey("job", "position", store=store)
    mine.write(lease, b"kept")
    site.store().break_lock("job", if_token=lease.token, now=now)
    for late in (Token.of(lease), Token("job", lease.token), lease):
        with pytest.raises(NotCurrent):
            mine.write(late, b"late")
    assert value(key) == b"kept"
    assert lease.lost.reason == "broken"


@every_guarding_store
def test_a_lease_of_another_lock_is_refused(store: Store, key: GuardedKey) -> None:
    """S56: a token says nothing about another lock, and nothing is asked of the store."""
    with store.lock("other", ttl=TTL) as lease:
        for foreign in (lease, Token.of(lease)):
            with pytest.raises(ForeignToken):
                key.write(foreign, b"x")
    assert key.read() is None


# What is under way for too long.


@every_guarding_place
def test_a_write_whose_answer_is_lost_is_told_as_unknown(place: Place) -> None:
    """The server has done it, and its answer never comes."""
    with place.link() as link, connect(link.url) as store, connect(place.url) as direct:
        key = GuardedKey("job", "position", store=store)
        with hold(store) as lease:
            key.write(lease, b"before")
            link.proxy.silence(Way.BACK)
            with pytest.raises(WriteUnknown):
                GuardedKey("job", "position", store=store, timeout=DOOMED).write(lease, b"done")
            until(lambda: value(GuardedKey("job", "position", store=direct)) == b"done")
            link.proxy.heal()
            key.write(lease, b"again")
            assert value(key) == b"again"


@every_guarding_place
def test_a_write_that_arrives_after_a_takeover_is_not_done(place: Place) -> None:
    """S2: it is told as unknown, is on its way for longer than its tenure lasts, and changes nothing then."""
    with place.link() as link, connect(link.url) as store, connect(place.url) as direct:
        key = GuardedKey("job", "position", store=store)
        there = GuardedKey("job", "position", store=direct)
        lease = hold(store)
        key.write(lease, b"before")
        link.proxy.silence(Way.FORTH)
        with pytest.raises(WriteUnknown):
            GuardedKey("job", "position", store=store, timeout=DOOMED).write(lease, b"R1")
        crash(direct)
        with hold(direct, "web-2") as other:
            link.proxy.heal()
            with pytest.raises(NotCurrent):
                key.write(lease, b"R2")  # It goes the same way: whatever was held up has arrived before.
            assert value(there) == b"before"
            there.write(other, b"after")
        assert value(there) == b"after"
