"""`MultiLock`, in both colours: all or nothing, in one order, lost when one is lost."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hands import PATIENCE, Hands
from leases import (
    AcquireTimeout,
    ConfigurationError,
    LeaseLost,
    Lock,
    MultiLease,
    MultiLock,
    Semaphore,
    Store,
    StoreUnavailable,
)
from leases.events import Endangered, Lost, Renewed
from leases.testing.clock import ManualClock
from stores import Site, every_store
from stubborn import (
    SHORT,
    Stubborn,
    another_process,
    fresh_url,
    intrude,
    leftovers,
    look,
    store_on,
    until,
)

LONG = 60.0
NAMES = ("a", "b", "c")
SOME = st.lists(st.sampled_from("abcde"), min_size=2, max_size=4, unique=True)


def multilock_on(store: Store, *names: str, **options: Any) -> MultiLock:
    return MultiLock(*(names or NAMES), store=store, **options)


def held(store: Store) -> list[str]:
    """The locks that the store shows to be held."""
    return [status.name for status in store.list() if status.held]


# ---- all or nothing --------------------------------------------------------------------------------


@every_store
def test_body_has_all_and_leaves_all(site: Site, hands: Hands) -> None:
    """All are held while the body runs, with a token each, and none after it."""
    store = site.store()
    lock = multilock_on(store, "b", "a")

    def work(lease: Any) -> tuple[bool, bool, list[str], list[str]]:
        return lease.held, lock.held, held(store), sorted(lease.tokens)

    assert hands.hand().body(lock, work).result(PATIENCE) == (True, True, ["a", "b"], ["a", "b"])  # type: ignore[arg-type]
    assert held(store) == [] and leftovers(store) == [] and not lock.held


@every_store
def test_what_one_lacks_is_had_by_nobody(site: Site, hands: Hands) -> None:
    """Where the last is taken those before it are released, and the error says which and who."""
    one, two = site.store(), site.store()
    other = Lock("c", store=one, holder="web-3").acquire()
    lock = multilock_on(two)
    assert hands.hand()("try_acquire", lock) is None
    assert held(one) == ["c"]
    with pytest.raises(AcquireTimeout, match='"c" is held by web-3') as raised:
        hands.hand()("acquire", lock, 0.2)
    assert raised.value.timeout == 0.2 and held(one) == ["c"]
    other.release()
    lease = hands.hand()("acquire", lock, PATIENCE)
    assert held(one) == ["a", "b", "c"]
    lease.release()
    until(lambda: not leftovers(two))
    assert held(one) == [] and leftovers(one) == []


def test_one_timeout_bounds_all_together(hands: Hands) -> None:
    """What one took is off what is left for the others; the error tells the seconds of all."""
    clock = ManualClock()
    store, left = store_on(clock=clock), list[Any]()

    class Slow(Lock):
        def _acquire(self, place: Any, bell: Any, timeout: Any) -> Any:
            left.append(timeout)
            clock.advance(0.25)
            return super()._acquire(place, bell, timeout)

        async def _acquire_async(self, place: Any, bell: Any, timeout: Any) -> Any:
            left.append(timeout)
            clock.advance(0.25)
            return await super()._acquire_async(place, bell, timeout)

    locks = [Slow(name, store=store) for name in "abcde"]
    hands.hand()("acquire", MultiLock(*locks[:3]), 1.0).release()
    assert left == pytest.approx([1.0, 0.75, 0.5])
    left.clear()
    Lock("e", store=another_process(store)).acquire()
    with pytest.raises(AcquireTimeout, match='"e" is held') as raised:
        hands.hand()("acquire", MultiLock(*locks), 0.6)
    assert left == pytest.approx([0.6, 0.35, 0.1, 0.0, 0.0]) and raised.value.timeout == 0.6


def test_a_store_that_is_down_is_no_other_holder(hands: Hands) -> None:
    """None means that another holds one of them; without an answer nobody can say so."""
    up, down = store_on(), store_on(Stubborn())
    down.hub.backend.down = True  # type: ignore[attr-defined]
    lock = MultiLock(up.lock("a"), down.lock("b", ttl=1))
    with pytest.raises(StoreUnavailable):
        hands.hand()("try_acquire", lock)
    assert held(up) == []


def test_one_that_was_lost_while_others_were_waited_for_is_sought_anew(hands: Hands) -> None:
    """No success is reported unless all are held at once; the one that was lost has a new token then."""
    store = store_on()
    others = another_process(store)
    last = Lock("c", store=others).acquire()
    waiting = hands.hand().begin("acquire", multilock_on(store, ttl=SHORT), PATIENCE)
    until(lambda: held(store) == ["a", "b", "c"] and any(m.blocked for m in _members(store)))
    token = store.status("a").token
    intrude(store, "a")
    until(lambda: any(m.machine.lost for m in _members(store)) or len(_members(store)) < 3)
    last.release()
    lease = waiting.result(PATIENCE)
    assert lease.held and lease.tokens["a"] > token


def _members(store: Store) -> list[Any]:
    hub: Any = store.hub
    return list(hub._members)


# ---- the order -------------------------------------------------------------------------------------


def test_everybody_keeps_to_one_order() -> None:
    """Whatever the order in which they were given, they are acquired by name, and released backwards."""
    backend = Stubborn("etcd")
    store = store_on(backend)
    with multilock_on(store, "b", "c", "a") as lease:
        assert [one.name for one in lease.leases] == ["a", "b", "c"]
    swaps = [(name, claim is not None) for kind, name, claim in backend.calls if kind == "swap"]
    assert swaps == [(name, True) for name in "abc"] + [(name, False) for name in "cba"]


def test_stores_come_before_names() -> None:
    """Over several stores the order is by store first, and is the same from every process."""
    urls = [fresh_url() for _ in range(2)]
    one = MultiLock(Lock("a", store=urls[1]), Lock("z", store=urls[0]))
    two = MultiLock(Lock("z", store=urls[0]), Lock("a", store=urls[1]))
    for lock in (one, two):
        with lock as lease:
            assert [one.name for one in lease.leases] == ["z", "a"]


@settings(max_examples=25)
@given(
    st.lists(st.lists(st.sampled_from("abcde"), min_size=2, max_size=4, unique=True), min_size=2, max_size=5)
)
def test_crossing_orders_do_not_deadlock(wanted: list[list[str]]) -> None:
    """Threads of three processes take any locks in any order again and again, and all come through."""
    backend = Stubborn("etcd")
    stores = [store_on(backend) for _ in range(3)]
    inside = dict.fromkeys("abcde", 0)

    def take(me: int, names: list[str]) -> None:
        for _ in range(3):
            with multilock_on(stores[me % 3], *names, timeout=PATIENCE):
                for name in names:
                    inside[name] += 1
                    assert inside[name] == 1
                for name in names:
                    inside[name] -= 1

    with ThreadPoolExecutor(len(wanted)) as crew:
        for done in [crew.submit(take, me, names) for me, names in enumerate(wanted)]:
            done.result(LONG)
    assert held(stores[0]) == []


# ---- the loss --------------------------------------------------------------------------------------


def test_the_loss_of_one_is_the_loss_of_all(hands: Hands) -> None:
    """It is told once, with the lock that was lost; the body raises it at its end, and all are released."""
    store, losses = store_on(), list[tuple[MultiLease, LeaseLost]]()
    lock = multilock_on(store, ttl=SHORT, on_lost=lambda lease, loss: losses.append((lease, loss)))
    hand = hands.hand()
    lease: Any = hand.enter(lock)  # type: ignore[arg-type]
    assert lease.held and not lease.lost and not lease.ending and not lease.jeopardy
    intrude(store, "b")
    assert hands.hand().wait(lease, PATIENCE).result(PATIENCE)
    intrude(store, "c")
    assert lease.of("c").lost.wait(PATIENCE)
    assert not lease.held and lease.remaining == 0 and lease.ending and not lock.held
    with pytest.raises(LeaseLost, match='"b" is lost'):
        lease.check()
    assert lease.lost.reason == "superseded" and lease.of("a").held
    until(lambda: losses)
    with pytest.raises(LeaseLost, match='"b" is lost'):
        hand.leave(lock)  # type: ignore[arg-type]
    assert [(told, loss.name) for told, loss in losses] == [(lease, "b")]
    assert held(store) == ["b", "c"], "the intruders' are left alone"


def test_silence_loses_it_at_the_first_deadline(hands: Hands) -> None:
    """Without any event the clock alone ends it: at the deadline of that which ends first."""
    clock = ManualClock()
    store = store_on(clock=clock)
    locks = [Lock("a", store=store, ttl=30), Lock("b", store=store, ttl=10)]
    lease = hands.hand()("acquire", MultiLock(*locks))
    assert lease.deadline == lease.of(locks[1]).deadline < lease.of(locks[0]).deadline
    assert lease.remaining == pytest.approx(7.5)
    clock.advance(8)
    assert not lease.held and lease.lost and lease.lost.reason == "expired" and lease.of("a").held


def test_a_body_that_was_left_by_an_error_keeps_it(hands: Hands) -> None:
    """The body's own error is raised, with a note of the loss, and all are released."""
    clock = ManualClock()
    store = store_on(clock=clock)

    def work(lease: Any) -> None:
        clock.advance(LONG)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine") as raised:
        hands.hand().body(multilock_on(store), work).result(PATIENCE)  # type: ignore[arg-type]
    assert "is lost (expired)" in raised.value.__notes__[0]


def test_a_body_that_released_them_lost_nothing(hands: Hands) -> None:
    """A release by the body itself, of all or of one, is no loss."""
    store = store_on()
    releases: list[Callable[[Any], object]] = [
        lambda lease: lease.release(),
        lambda lease: lease.of("b").release(),
    ]
    for release in releases:
        hands.hand().body(multilock_on(store), release).result(PATIENCE)  # type: ignore[arg-type]
        assert held(store) == []


def test_who_is_asked_to_stop_holds_until_it_has() -> None:
    """`ending` and `check` say it at once, for each of them too; the leases stand."""
    lease = multilock_on(store_on()).acquire()
    waited = list[bool]()
    waiter = threading.Thread(target=lambda: waited.append(lease.ending.wait(PATIENCE)))
    waiter.start()
    lease.ask_to_stop()
    waiter.join(PATIENCE)
    assert waited == [True] and lease.held and not lease.lost and lease.of("a").ending
    with pytest.raises(LeaseLost):
        lease.check()
    lease.release()


def test_on_lost_cancels_the_task_once() -> None:
    """The word of one lock is that of several: the task is cancelled, and the loss comes out of the body."""

    async def run() -> None:
        store = store_on()

        async def work() -> None:
            async with multilock_on(store, ttl=SHORT, on_lost="cancel"):
                intrude(store, "b")
                await asyncio.sleep(LONG)

        with pytest.raises(LeaseLost, match='"b"'):
            await work()
        task = asyncio.current_task()
        assert task is not None and task.cancelling() == 0 and held(store) == ["b"]

    asyncio.run(run())


@pytest.mark.parametrize("plain", [False, True])
def test_a_lock_that_cancels_by_itself(plain: bool) -> None:
    """The word of one of the locks holds for the body of all: LeaseLost comes of its cancellation."""

    async def run() -> None:
        with store_on() as store:
            lock = MultiLock(Lock("a", store=store, ttl=SHORT, on_lost="cancel"), Lock("b", store=store))

            async def work() -> None:
                async with lock:
                    intrude(store, "a")
                    await asyncio.sleep(LONG)

            async def plain_work() -> None:
                with await lock.acquire_async():
                    intrude(store, "a")
                    await asyncio.sleep(LONG)

            with pytest.raises(LeaseLost, match='"a"'):
                await (plain_work() if plain else work())
            task = asyncio.current_task()
            assert task is not None and task.cancelling() == 0

    asyncio.run(run())


def test_events_are_those_of_all_with_the_first_deadline() -> None:
    """Who watches over the work is told of no deadline that is not that of all."""
    clock = ManualClock()
    store = store_on(clock=clock)
    lease = MultiLock(Lock("a", store=store, ttl=30), Lock("b", store=store, ttl=10)).acquire()
    heard: list[Any] = []
    end = lease.listen(heard.append)
    for renewals in (1, 3):  # First of one, then of both.
        clock.advance(5)
        look(store)
        until(lambda count=renewals: [type(event) for event in heard].count(Renewed) == count)  # type: ignore[misc]
    clock.advance(LONG)
    look(store)
    assert {type(event) for event in heard} >= {Renewed, Lost}
    told = [event.deadline for event in heard if isinstance(event, Renewed | Endangered)]
    assert told == sorted(told) and max(told) == lease.of("b").deadline
    end()
    seen = len(heard)
    lease.release()
    assert len(heard) == seen


# ---- ends ------------------------------------------------------------------------------------------


def test_release_goes_on_where_one_fails(hands: Hands) -> None:
    """One release that raises does not keep the others held."""
    store = store_on()
    lease = hands.hand()("acquire", multilock_on(store))
    broken = lease.of("b")
    release, release_async = broken._release, broken._release_async

    def fail(grip: Any) -> None:
        release(grip)
        raise OSError("no more threads")

    async def fail_async(grip: Any) -> None:
        await release_async(grip)
        raise OSError("no more threads")

    lease._places = {
        lock: (place, _Failing(one, fail, fail_async) if one is broken else one)
        for lock, (place, one) in lease._places.items()
    }
    with pytest.raises(OSError, match="no more threads"):
        hands.hand()("release", lease)
    assert held(store) == []


class _Failing:
    def __init__(self, lease: Any, release: Any, release_async: Any) -> None:
        self._lease, self._release, self._release_async = lease, release, release_async

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lease, name)


def test_release_is_the_locks_own() -> None:
    """What was acquired last is released by the object; a second time there is nothing to release."""
    lock = multilock_on(store_on())
    lease = lock.acquire()
    lock.release()
    assert not lease.held and lease.lost.reason == "released"
    lease.release()
    with pytest.raises(RuntimeError, match="not held"):
        lock.release()


def test_a_cancelled_task_leaves_nothing() -> None:
    """Cancelled while it waits for the last of them, it gives up those that it has."""

    async def run() -> None:
        store = store_on()
        other = Lock("c", store=another_process(store)).acquire()
        task = asyncio.create_task(multilock_on(store).acquire_async())
        while held(store) != ["a", "b", "c"]:
            await asyncio.sleep(0.002)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while held(store) != ["c"] or leftovers(store):
            await asyncio.sleep(0.002)
        other.release()

    asyncio.run(run())


def test_ctrl_c_leaves_nothing() -> None:
    """Interrupted in the middle of acquiring the second, it gives up the first."""
    backend = Stubborn()
    store = store_on(backend)

    def interrupt(kind: str, name: str) -> None:
        if (kind, name) == ("swap", "b"):
            backend.before = lambda kind, name: None
            raise KeyboardInterrupt

    backend.before = interrupt
    with pytest.raises(KeyboardInterrupt):
        multilock_on(store, ttl=SHORT).acquire()
    until(lambda: held(store) == [] and not leftovers(store))


def test_waiting_for_oneself_is_refused(hands: Hands) -> None:
    """Who is in a body of one of them would wait for ever, and is told so; what it had is given back."""
    store, hand = store_on(), hands.hand()
    hand.enter(multilock_on(store, "b", "c"))  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="wait for itself"):
        hand("acquire", multilock_on(store, "a", "b"))
    assert held(store) == ["b", "c"]


@every_store
def test_body_may_end_in_another_thread_or_task(site: Site, hands: Hands) -> None:
    """Also while another waits for its turn, who has begun no body yet."""
    store = site.store()
    lock = multilock_on(store, "a", "b")
    hands.hand().enter(lock)  # type: ignore[arg-type]
    waiting = hands.hand().body(lock, lambda lease: lease.held)  # type: ignore[arg-type]
    until(lambda: store.hub.waiters("a"))
    hands.hand().leave(lock)  # type: ignore[arg-type]
    assert waiting.result(PATIENCE)
    assert held(store) == [] and leftovers(store) == []


def test_bodies_that_end_elsewhere_are_not_mixed_up(hands: Hands) -> None:
    """Of semaphores there may be several at once: where it cannot be known which ends, none does."""
    store = store_on()
    lock = MultiLock(*(Semaphore(name, 2, store=store) for name in "ab"))
    entered = [hands.hand(), hands.hand()]
    leases: list[Any] = [hand.enter(lock) for hand in entered]  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="none began in this thread or task"):
        hands.hand().leave(lock)  # type: ignore[arg-type]
    assert all(lease.held for lease in leases)
    for hand in entered:
        hand.leave(lock)  # type: ignore[arg-type]
    assert held(store) == [] and leftovers(store) == []


def test_it_decorates(hands: Hands) -> None:
    """Each call of a function runs under all."""
    store = store_on()
    assert multilock_on(store)(lambda: held(store))() == list(NAMES)
    with pytest.raises(ConfigurationError, match="generator function"):

        @multilock_on(store)
        def numbers() -> Any:
            yield 1


# ---- what they are ---------------------------------------------------------------------------------


def test_locks_of_several_stores_and_kinds() -> None:
    """Names, locks with options of their own, and semaphores, of one name in two stores."""
    one, two = store_on(), store_on()
    locks = Lock("job", store=one, ttl=30), Lock("job", store=two), Semaphore("pool", 2, store=two)
    with MultiLock(*locks) as lease:
        assert lease.of(locks[0]).token > 0 and lease.of(locks[2]).name.startswith("pool/slot-")
        with pytest.raises(ConfigurationError, match="not all different"):
            _ = lease.tokens
        with pytest.raises(ConfigurationError, match="is not one of"):
            lease.of("job")
        assert held(one) == ["job"] and len(held(two)) == 2


def test_what_cannot_work_is_refused() -> None:
    """One lock alone, one twice by name or by URL, and options for nobody."""
    store = store_on()
    with pytest.raises(ConfigurationError, match="two or more"):
        MultiLock("a")
    with pytest.raises(ConfigurationError, match='"a" is there 2 times'):
        MultiLock("a", "b", "a", store=store)
    with pytest.raises(ConfigurationError, match='"a" is there 2 times'):
        MultiLock("a", Lock("a", store=store), store=store)
    with pytest.raises(ConfigurationError, match="ttl= has no lock to apply to"):
        MultiLock(Lock("a"), Lock("b"), ttl=3)
    with pytest.raises(ConfigurationError, match="on_lost"):
        MultiLock("a", "b", on_lost="panic")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r'"b" has semantics="at-least-once".*leave it out'):
        MultiLock("a", Lock("b", semantics="at-least-once"))


def test_one_store_by_two_urls_is_found_out(tmp_path: Any) -> None:
    """What only the stores can tell is asked when they are connected: nothing was acquired then."""
    (tmp_path / "link").symlink_to(tmp_path)
    urls = [f"sqlite://{tmp_path}/leases.db", f"sqlite://{tmp_path}/link/leases.db"]
    with pytest.raises(ConfigurationError, match='"a" is there 2 times'):
        MultiLock(*(Lock("a", store=url) for url in urls)).acquire()


def test_it_belongs_to_this_process() -> None:
    """Neither can be pickled."""
    import pickle

    lock = multilock_on(store_on())
    with lock as lease:
        for thing in (lock, lease):
            with pytest.raises(TypeError, match="this process"):
                pickle.dumps(thing)
        assert repr(lock) == "<MultiLock a, b, c>" and '"a, b, c" held for another' in repr(lease)
