"""The hub: who waits for which name, who connects, what is remembered, and what a close does."""

from __future__ import annotations

import gc
import threading
import time
from typing import Any

import pytest

from hands import PATIENCE, Hands
from leases import AcquireTimeout, Lock, StoreError, StoreUnavailable, connect
from leases.contract import Applied, Slot
from leases.hub import Hub, SystemEntropy, Ticket, shared_hub
from leases.machine import Estate
from leases.testing.clock import ManualClock
from leases_backends import memory as memory_module
from stubborn import SHORT, Stubborn, another_process, fresh_url, inner, leftovers, memory, store_on, until


def ticket(rung: list[Ticket] | None = None, handle: object = None) -> Ticket:
    """A ticket that notes when it is called."""
    made = Ticket(lambda: rung.append(made) if rung is not None else None, handle)
    return made


class Member:
    """A claim that is over, as a hub sees it."""

    held = False

    def __init__(self, estate: Estate) -> None:
        self.estate = estate
        self.ticket = ticket()
        self.bequeathed = 0

    def abandon(self) -> None: ...
    def fork(self) -> None: ...
    def close(self) -> None: ...
    def failure(self, timeout: float) -> Any: ...

    def bequeath(self) -> Estate:
        self.bequeathed += 1
        return self.estate


def hub_on(clock: ManualClock | None = None) -> Hub:
    return Hub(memory(), clock=clock) if clock is not None else Hub(memory())


# ---- the queue -----------------------------------------------------------------------------------


def test_turns_come_in_order() -> None:
    """The first has its turn at once, the others in the order in which they came; each is rung once."""
    hub, rung = hub_on(), list[Ticket]()
    tickets = [ticket(rung) for _ in range(4)]
    assert [hub.enter("job", each) for each in tickets] == [True, False, False, False]
    assert hub.waiters("job") == 3 and hub.ahead("job") is tickets[0]
    for each in tickets:
        assert each.called
        hub.pass_on("job", each, None, None)
    assert rung == tickets[1:] and hub.waiters("job") == 0 and hub.ahead("job") is None
    assert hub._queues == {}


def test_names_do_not_wait_for_one_another() -> None:
    """Each name has a queue of its own."""
    hub = hub_on()
    assert hub.enter("a", ticket()) and hub.enter("b", ticket()) and not hub.enter("a", ticket())


def test_turn_ends_once() -> None:
    """Who passes on a turn that ended before takes it from nobody."""
    hub = hub_on()
    first, second, third = ticket(), ticket(), ticket()
    for each in (first, second, third):
        hub.enter("job", each)
    hub.pass_on("job", first, None, None)
    hub.pass_on("job", first, None, None)
    hub.withdraw("job", first)
    assert hub.ahead("job") is second and not third.called


@pytest.mark.parametrize("place", [0, 1, 2])
def test_withdrawing_from_any_place(place: int) -> None:
    """Who withdraws, from the turn or from the line, is out of the way of all the others."""
    hub = hub_on()
    tickets = [ticket() for _ in range(3)]
    for each in tickets:
        hub.enter("job", each)
    gone = tickets.pop(place)
    hub.withdraw("job", gone)
    hub.withdraw("job", gone)
    for each in tickets:
        assert hub.ahead("job") is each and each.called
        hub.pass_on("job", each, None, None)
    assert hub._queues == {}


def test_withdrawing_what_never_entered() -> None:
    """It is harmless for who came no further, and for a name that nobody uses."""
    hub = hub_on()
    hub.withdraw("job", ticket())
    first = ticket()
    hub.enter("job", first)
    hub.withdraw("job", ticket())
    assert hub.ahead("job") is first


def test_estate_goes_to_the_next() -> None:
    """What a claim leaves is for the next in line, or for the next who comes; for one alone."""
    hub = Hub(memory("zookeeper"))
    first, second, third = ticket(), ticket(), ticket()
    estate = Estate(floor=7)
    hub.enter("job", first)
    hub.enter("job", second)
    hub.pass_on("job", first, estate, None)
    assert second.estate is estate
    hub.pass_on("job", second, estate, None)
    hub.enter("job", third)
    assert third.estate is estate
    fourth = ticket()
    hub.pass_on("job", third, None, None)
    hub.enter("job", fourth)
    assert fourth.estate is None


def test_remains_are_taken_over_or_settle() -> None:
    """A claim that is over and has a write under way yet is taken over by the next, or settles by itself."""
    hub = hub_on()
    remains = Member(Estate(floor=7))
    first, second = ticket(), ticket()
    hub.enter("job", first)
    hub.pass_on("job", first, None, remains)
    hub.enter("job", second)
    assert second.estate is remains.estate and remains.bequeathed == 1
    hub.pass_on("job", second, None, remains)
    assert "job" in hub._queues
    hub.settled("job", Member(Estate()))
    assert "job" in hub._queues
    hub.settled("job", remains)
    assert hub._queues == {} and remains.bequeathed == 1


def test_chain_of_hand_overs_is_cut() -> None:
    """After a while of hand-overs the lock is released instead, and the next of us holds back once."""
    clock = ManualClock()
    hub = hub_on(clock)
    tickets = [ticket() for _ in range(6)]
    for each in tickets:
        hub.enter("job", each)
    member = Member(Estate())
    assert hub.hand_over("job", tickets[0], member)
    clock.advance(0.01)
    assert hub.hand_over("job", tickets[1], member)
    assert tickets[2].hold_back == 0.0 and tickets[2].estate is member.estate
    clock.advance(1)
    assert not hub.hand_over("job", tickets[2], member)
    hub.pass_on("job", tickets[2], None, None)
    assert tickets[3].hold_back > 0.0
    assert hub.hand_over("job", tickets[3], member)
    assert tickets[4].hold_back == 0.0


def test_nothing_is_handed_over_to_nobody() -> None:
    """Without anybody in line, and by who has no turn, the lock is released instead."""
    hub = hub_on()
    first, stranger = ticket(), ticket()
    member = Member(Estate())
    assert not hub.hand_over("job", first, member)
    hub.enter("job", first)
    assert not hub.hand_over("job", first, member)
    hub.enter("job", stranger)
    assert not hub.hand_over("job", stranger, member)
    assert member.bequeathed == 0


def test_few_names_are_remembered() -> None:
    """What is kept of names that nobody uses is bounded."""
    hub = Hub(memory("zookeeper"))
    for number in range(3000):
        each = ticket()
        hub.enter(f"job-{number}", each)
        hub.pass_on(f"job-{number}", each, Estate(floor=1), None)
    assert len(hub._remembered) <= 1024 and hub._queues == {}


def test_released_lock_is_taken_again_in_one_round_trip(hands: Hands) -> None:
    """Where release leaves a record, this process remembers it, and swaps on it without a read."""
    backend = Stubborn("zookeeper")
    store = store_on(backend)
    hand = hands.hand()
    lock = Lock("job", store=store)
    first = hand("acquire", lock)
    first.release()
    backend.calls.clear()
    second = hand("acquire", lock)
    assert [kind for kind, _, _ in backend.calls] == ["swap"]
    assert second.token > first.token
    second.release()


# ---- connections ---------------------------------------------------------------------------------


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The backends that are opened by URL."""
    made: list[Any] = []
    real = memory_module.connect

    def counted(url: str = "memory:") -> Any:
        backend = real(url)
        close = backend.close
        backend.closes = 0  # type: ignore[attr-defined]

        def closing() -> None:
            backend.closes += 1  # type: ignore[attr-defined]
            close()

        backend.close = closing  # type: ignore[method-assign]
        made.append(backend)
        return backend

    monkeypatch.setattr(memory_module, "connect", counted)
    return made


def test_one_connection_for_each_url(opened: list[Any]) -> None:
    """However many stores name a URL, the process connects once, and lets go with the last of them."""
    url = fresh_url()
    one, two = connect(url), connect(url)
    assert len(opened) == 1 and one.hub is two.hub
    one.close()
    one.close()
    assert opened[0].closes == 0
    two.close()
    assert opened[0].closes == 1
    three = connect(url)
    assert len(opened) == 2
    three.close()


def test_threads_that_connect_at_once_share_a_connection(opened: list[Any]) -> None:
    """Two threads that name a URL for the first time at the same time get the same connection."""
    url = fresh_url()
    barrier = threading.Barrier(8)
    stores: list[Any] = []

    def run() -> None:
        barrier.wait()
        stores.append(connect(url))

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 1
    for store in stores:
        store.close()
    assert opened[0].closes == 1


def test_lock_by_url_keeps_the_connection(hands: Hands, opened: list[Any]) -> None:
    """Closing a store does not end a lease that came by the URL, or by another store of it."""
    url = fresh_url()
    hand = hands.hand()
    by_url = hand("acquire", Lock("by-url", store=url))
    other = connect(url)
    by_other = hand("acquire", other.lock("by-other"))
    with connect(url) as store:
        by_store = hand("acquire", store.lock("by-store"))
        lock = store.lock("again")
        assert by_store.held
    assert not by_store.held and by_store.lost.reason == "closed"
    assert by_url.held and by_other.held
    with pytest.raises(StoreUnavailable, match="was closed; connect again"):
        hand("acquire", lock)
    with pytest.raises(StoreUnavailable, match="was closed; connect again"):
        store.lock("x")
    other.close()
    assert not by_other.held and by_url.held and opened[0].closes == 0
    by_url.release()


def test_close_turns_away_who_waits(hands: Hands) -> None:
    """Who waits by a store that is closed, in line or for the store, is told so at once."""
    backend = Stubborn()
    store = store_on(backend)
    elsewhere = another_process(store)
    held = Lock("job", store=elsewhere).acquire()
    waiting = [hands.hand().begin("acquire", Lock("job", store=store)) for _ in range(3)]
    until(lambda: store.hub.waiters("job") == 2 and backend.watching == 1)
    store.close()
    for each in waiting:
        with pytest.raises(StoreUnavailable, match="was closed"):
            each.result(PATIENCE)
    assert backend.watching == 0 and backend.closed == 1 and leftovers(store) == []
    held.release()


def test_close_leaves_who_waits_by_another_store(hands: Hands) -> None:
    """Of a shared connection only those are turned away who came by the store that is closed."""
    url = fresh_url()
    one, two = connect(url), connect(url)
    held = Lock("job", store=one).acquire()
    turned_away = hands.hand().begin("acquire", one.lock("job"))
    until(lambda: two.hub.waiters("job") == 1)
    stays = hands.hand().begin("acquire", two.lock("job", ttl=1.0))
    until(lambda: two.hub.waiters("job") == 2)
    one.close()
    with pytest.raises(StoreUnavailable, match="was closed"):
        turned_away.result(PATIENCE)
    assert held.lost.reason == "closed"
    time.sleep(0.02)
    assert not stays.done()  # The record of the lease that was closed stands until its ttl has passed.
    slot = inner_of(two.hub)
    assert slot.held
    two.hub.backend.swap(slot, None, 1)
    stays.result(PATIENCE).release()
    two.close()


def inner_of(hub: Hub) -> Slot:
    return hub.backend.read("job", 1)


def test_close_while_it_is_acquired(hands: Hands) -> None:
    """A close in the middle of the acquiring swap ends the acquire, and no lease is given."""
    backend = Stubborn()
    store = store_on(backend)
    asked, gate = threading.Event(), threading.Event()

    def stall(kind: str, outcome: Any) -> Any:
        asked.set()
        gate.wait()
        return outcome

    backend.after = stall
    waiting = hands.hand().begin("acquire", Lock("job", store=store))
    asked.wait(PATIENCE)
    store.close()
    gate.set()
    with pytest.raises(StoreUnavailable, match="was closed"):
        waiting.result(PATIENCE)


def test_closed_store_ends_its_threads() -> None:
    """With the connection its couriers end."""
    backend = Stubborn()
    backend.traits = type(backend.traits)(
        "closing", release_deletes=True, token_from_write=True, least_ttl=0.1
    )
    store = store_on(backend)
    lease = Lock("job", store=store, ttl=SHORT).acquire()
    first = lease.deadline
    until(lambda: lease.deadline > first)
    assert names("leases-courier-closing")
    store.close()
    until(lambda: not names("leases-courier-closing"))


def names(prefix: str) -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(prefix)]


def test_hub_that_could_not_be_opened_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a connection that failed the next one is tried anew."""
    url = fresh_url()

    def fail(url: str) -> Any:
        raise StoreUnavailable("it is down; wait")

    with monkeypatch.context() as patch:
        patch.setattr(memory_module, "connect", fail)
        with pytest.raises(StoreUnavailable):
            connect(url)
        with pytest.raises(StoreUnavailable):
            Lock("job", store=url).acquire()
    with connect(url) as store, store.lock("job"):
        pass


def test_shared_hub_is_not_given_closed() -> None:
    """A hub that was closed by itself is not given to anybody any more."""
    url = fresh_url()
    hub = shared_hub(url, Hub.pin)
    lock = Lock("job", store=url)
    lock.acquire().release()
    hub.close()
    hub.close()
    assert shared_hub(url, Hub.pin) is not hub
    lock.acquire().release()


# ---- a store that went back ----------------------------------------------------------------------


def test_restored_store_is_refused(hands: Hands) -> None:
    """S51: a write that gets a number which the store had passed ends the lease; nobody acquires any more."""
    backend = Stubborn()
    store = store_on(backend)
    other = Lock("other", store=store, ttl=1.0).acquire()
    lease = Lock("job", store=store, ttl=1.0).acquire()
    number = inner(store)._store.cells.number

    def restored(kind: str, outcome: Any) -> Any:
        if isinstance(outcome, Applied):
            slot = outcome.slot
            return Applied(Slot(slot.name, 1, slot.claim, 1, 1, slot.body))
        return outcome

    backend.after = restored
    until(lambda: other.lost or lease.lost)
    for verb in ("acquire", "try_acquire"):
        with pytest.raises(StoreError, match="the store went back"):
            hands.hand()(verb, Lock("third", store=store))
    assert inner(store)._store.cells.number >= number
    backend.after = lambda kind, outcome: outcome
    for each in (other, lease):
        each.release()


# ---- under load ----------------------------------------------------------------------------------


def test_many_threads_and_names_leave_nothing(hands: Hands) -> None:
    """After many acquires, time-outs and releases at once, of several names, nothing at all is left."""
    backend = Stubborn()
    store = store_on(backend)
    inside = {name: [0] for name in "abc"}
    workers = [hands.hand() for _ in range(12)]

    def enter(name: str) -> None:
        inside[name][0] += 1
        assert inside[name][0] == 1
        time.sleep(0.0002)
        inside[name][0] -= 1

    doing = []
    for turn in range(12):
        for number, hand in enumerate(workers):
            name = "abc"[(number + turn) % 3]
            lock = Lock(name, store=store, ttl=2.0, timeout=0.002 if number % 4 == 0 else None)
            doing.append(hand.body(lock, lambda lease, name=name: enter(name)))  # type: ignore[misc]
    for each in doing:
        error = each.exception(60)
        assert error is None or isinstance(error, AcquireTimeout | StoreUnavailable)
    until(lambda: leftovers(store) == [])
    assert backend.watching == 0


def test_threads_switched_at_every_instruction() -> None:
    """As above, with threads that are interrupted as often as Python can."""
    import sys

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        store = store_on()
        counter = [0]

        def work() -> None:
            for _ in range(40):
                with Lock("job", store=store, ttl=5.0):
                    seen = counter[0]
                    time.sleep(0)
                    counter[0] = seen + 1

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert counter == [320]
    finally:
        sys.setswitchinterval(before)
    until(lambda: leftovers(store) == [])


def test_released_leases_are_not_kept_alive() -> None:
    """A released lease, and everything that it was made of, is freed without the garbage collector's help."""
    import weakref

    store = store_on()
    lock = Lock("job", store=store)
    gc.collect()
    gc.disable()
    try:
        with lock as lease:
            gone = weakref.ref(lease)
        del lease
        assert gone() is None
    finally:
        gc.enable()


def test_randomness_is_the_operating_systems() -> None:
    """Bits are as many as were asked for, and all of them are used; a float is in [0, 1)."""
    entropy = SystemEntropy()
    for bits in (1, 7, 8, 63, 64, 65, 128):
        drawn = [entropy.getrandbits(bits) for _ in range(200)]
        assert all(0 <= number < 1 << bits for number in drawn)
        assert max(number.bit_length() for number in drawn) == bits
    assert all(0 <= entropy.random() < 1 for _ in range(200))
