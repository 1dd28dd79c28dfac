"""Who leads, as observers see it: every change once, and nobody in the place of the dead."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from candidates import in_thread
from leases import ConfigurationError, Leader, Lock, RecordRefused, Store, StoreUnavailable
from leases.clock import Instant
from leases.contract import Slot
from leases.hub import Hub
from leases.observer import PRIORITY, Lookout, Sight, leader_of, observing
from leases.record import Claim, State
from leases.testing.clock import ManualClock
from stores import Site, every_store
from stubborn import PATIENCE, SHORT, Stubborn, another_process, break_, intrude, memory, store_on, until

TTL = 15.0


def holders(seen: list[Leader | None]) -> list[str | None]:
    return [None if leader is None else leader.holder for leader in seen]


class Deaf(Stubborn):
    """A store whose hints are lost."""

    def watch(self, seen: Any, notify: Any) -> Any:
        return super().watch(seen, lambda slot: None)


class Watcher:
    """An observer in a thread of its own, and what it has shown."""

    def __init__(self, seen: Iterator[Leader | None]) -> None:
        self.shown: list[Leader | None] = []

        def look() -> None:
            for leader in seen:
                self.shown.append(leader)

        self.future = in_thread(look)

    def sees(self, *expected: str | None) -> None:
        """Wait until it has shown just these holders."""
        until(lambda: len(self.shown) >= len(expected))
        assert holders(self.shown) == list(expected)


# ---- what is shown -------------------------------------------------------------------------------


@every_store
def test_every_change_is_shown_once(site: Site) -> None:
    """First what is so, then each election and each end of a tenure; renewals and metadata are no changes."""
    store = site.store()
    watcher = Watcher(site.store().observe("job"))
    watcher.sees(None)
    lease = Lock("job", store=store, ttl=site.short, holder="one").acquire()
    watcher.sees(None, "one")
    first = watcher.shown[1]
    assert first is not None and (first.name, first.token) == ("job", lease.token)
    assert abs(first.since - site.store()._hub.clock().wall) < 60
    deadline = lease.deadline
    lease.update({"step": "2"})
    until(lambda: lease.deadline > deadline)
    lease.release()
    watcher.sees(None, "one", None)
    second = Lock("job", store=store, ttl=site.short, holder="two").acquire()
    watcher.sees(None, "one", None, "two")
    assert watcher.shown[3] is not None and watcher.shown[3].token == second.token
    second.release()


@every_store
def test_a_dead_leader_is_shown_for_its_ttl(site: Site) -> None:
    """A holder of whom nothing is heard is nobody after the ttl of its record, and not before."""
    dead = site.store()
    lease = Lock("job", store=dead, ttl=site.short, holder="dead").acquire()
    watcher = Watcher(site.store().observe("job"))
    watcher.sees("dead")
    clock = site.store()._hub.clock
    dead._hub.close()  # as if the process had been killed
    last = lease.deadline - 0.75 * site.short  # the last send that is known to be committed
    until(lambda: len(watcher.shown) == 2)
    assert holders(watcher.shown) == ["dead", None]
    assert clock().hold >= last + site.short


def test_what_a_leader_shows() -> None:
    """Metadata as it is, without what the library itself keeps in it; the priority apart."""
    store = store_on()
    lock = Lock("job", store=store, metadata={"build": "17", PRIORITY: "5", "leases.else": "x"})
    with lock as lease:
        leader = next(store.observe("job"))
    assert leader == Leader("job", lease.holder, lease.token, 0.0)  # equal if it is the same tenure
    assert leader is not None and (leader.metadata, leader.priority) == ({"build": "17"}, 5)


def test_an_update_keeps_what_the_library_shows() -> None:
    """The holder's own update does not take its priority away."""
    store = store_on()
    with Lock("job", store=store, metadata={"build": "17", PRIORITY: "5"}) as lease:
        lease.update({"build": "18"})
        leader = next(store.observe("job"))
    assert leader is not None and (leader.metadata, leader.priority) == ({"build": "18"}, 5)


def test_a_broken_lock_is_led_by_nobody() -> None:
    """The record that an operator leaves in its place is no leader's."""
    store = store_on()
    Lock("job", store=store, ttl=TTL).acquire()
    watcher = Watcher(another_process(store).observe("job"))
    until(lambda: watcher.shown)
    break_(store, "job")
    until(lambda: len(watcher.shown) == 2)
    assert watcher.shown[1] is None


def test_a_change_of_tenure_is_a_change() -> None:
    """The same holder by another token is another leader."""
    store = store_on()
    Lock("job", store=store, ttl=TTL, holder="one").acquire()
    watcher = Watcher(another_process(store).observe("job"))
    watcher.sees("one")
    intrude(store, "job")  # same holder, same token: another claim of it cannot be told from an edit
    store2 = another_process(store)
    break_(store, "job", now=True)
    Lock("job", store=store2, ttl=TTL, holder="one").acquire()
    until(lambda: len([leader for leader in watcher.shown if leader]) == 2)
    tokens = [leader.token for leader in watcher.shown if leader]
    assert tokens[0] < tokens[1]


def test_unknown_priority_is_none() -> None:
    """Whatever else stands there."""
    claim = Claim("one", "1", "2", TTL, 3, metadata={PRIORITY: "high"})
    leader = leader_of(Slot("job", 1, claim, 1))
    assert leader is not None and leader.priority is None


# ---- in both colours -----------------------------------------------------------------------------


def test_observing_asynchronously() -> None:
    """The same for asyncio; leaving the loop closes the watch."""
    backend = Stubborn()
    store = store_on(backend)

    async def main() -> list[str | None]:
        observing = store.observe_async("job")
        seen = [await anext(observing)]
        lease = await Lock("job", store=store, ttl=TTL, holder="one").acquire_async()
        seen.append(await anext(observing))
        await lease.release_async()
        seen.append(await anext(observing))
        await observing.aclose()
        return holders(seen)

    assert asyncio.run(main()) == [None, "one", None]
    until(lambda: backend.watching == 0)


def test_closing_ends_the_watch() -> None:
    """An observer that is closed leaves nothing behind in the store."""
    backend = Stubborn()
    seen = store_on(backend).observe("job")
    assert next(seen) is None and backend.watching == 1
    seen.close()
    assert backend.watching == 0


def test_observers_cost_nothing_while_nothing_happens() -> None:
    """Where hints come it looks once, and then not for a while."""
    backend = Stubborn()
    watcher = Watcher(store_on(backend).observe("job"))
    watcher.sees(None)
    calls = len(backend.calls)
    assert calls <= 3
    threading.Event().wait(0.1)
    assert len(backend.calls) == calls


# ---- faults --------------------------------------------------------------------------------------


def test_a_silent_store_hides_the_leader_after_its_ttl() -> None:
    """Nobody is known to lead once nothing has been heard for a ttl; when the store is back, it is seen."""
    near = store_on(memory("etcd"))
    lease = Lock("job", store=near, ttl=SHORT, holder="one").acquire()
    way = Deaf(inner=near.hub.backend)
    watcher = Watcher(Store(Hub(way)).observe("job"))
    watcher.sees("one")
    way.down = True
    watcher.sees("one", None)
    way.down = False
    watcher.sees("one", None, "one")
    assert lease.held and watcher.shown[0] == watcher.shown[2]
    lease.release()


def test_what_is_heard_puts_off_no_look_that_failed() -> None:
    """A leader who renews often keeps nobody from asking a store again that gave no answer."""
    clock, backend = ManualClock(), Stubborn("etcd")
    store = store_on(backend, clock=clock)
    Lock("job", store=store, ttl=TTL, holder="one").acquire()
    script = observing(lambda: store.hub, "job", lambda: None)

    def looks() -> int:
        """How often it asks the store before it waits."""
        count = 0
        while not isinstance(step := next(script), float):
            if callable(step):
                step()
                count += 1
        return count

    assert looks() == 1  # It watches from now on.
    backend.down = True
    clock.advance(TTL / 2)
    assert looks() == 1
    asked = 0
    for number in range(40):  # renewals at intervals shorter than that of the looks
        clock.advance(0.4)
        seen = backend.inner.read("job", SHORT)
        assert seen.claim is not None
        backend.inner.swap(seen, replace(seen.claim, beat=f"{number:016x}"), SHORT)
        asked += looks()
    assert asked >= 10
    script.close()


def test_hints_may_be_lost() -> None:
    """Without any hint a change is seen all the same, only later."""
    near = store_on(memory())
    lease = Lock("job", store=near, ttl=SHORT, holder="one").acquire()
    watcher = Watcher(Store(Hub(Deaf(inner=near.hub.backend))).observe("job"))
    watcher.sees("one")
    two = in_thread(lambda: Lock("job", store=near, ttl=SHORT, holder="two").acquire())
    until(lambda: near.hub.waiters("job"))
    lease.release()
    watcher.sees("one", "two")
    two.result(PATIENCE).release()


def test_a_store_that_cannot_watch_is_looked_at() -> None:
    """Where watching fails it looks again and again, and asks for hints each time."""

    class Blind(Stubborn):
        def watch(self, seen: Any, notify: Any) -> Any:
            self.calls.append(("watch", seen.name, None))
            raise StoreUnavailable("no watches today")

    near = store_on(memory())
    backend = Blind(inner=near.hub.backend)
    watcher = Watcher(Store(Hub(backend)).observe("job"))
    watcher.sees(None)
    Lock("job", store=near, ttl=TTL, holder="one").acquire()
    watcher.sees(None, "one")
    assert len([call for call in backend.calls if call[0] == "watch"]) >= 2


def test_a_store_that_is_away_at_first_shows_nobody() -> None:
    """The first state is that nobody is known to lead; then what is seen."""
    backend = Stubborn()
    backend.down = True
    store = store_on(backend)
    watcher = Watcher(store.observe("job"))
    watcher.sees(None)
    Lock("job", store=Store(Hub(backend.inner)), ttl=TTL, holder="one").acquire()
    backend.down = False
    watcher.sees(None, "one")


@pytest.mark.parametrize("what", ["the store", "its connection"])
def test_a_store_that_is_closed_ends_the_observer(what: str) -> None:
    """Its owner closed it: nothing will be seen any more."""
    store = store_on()
    watcher = Watcher(store.observe("job"))
    watcher.sees(None)
    lease = Lock("job", store=another_process(store), ttl=SHORT).acquire()
    until(lambda: len(watcher.shown) == 2)
    (store if what == "the store" else store.hub).close()
    with pytest.raises(StoreUnavailable, match="closed"):
        watcher.future.result(PATIENCE)
    lease.release()


def test_a_foreign_record_is_refused() -> None:
    """It says so, and does not take it for nobody."""
    backend = Stubborn()

    def refuse(kind: str, name: str) -> None:
        raise RecordRefused("job", "it is foreign", b"?")

    backend.before = refuse
    with pytest.raises(RecordRefused):
        next(store_on(backend).observe("job"))


def test_a_name_that_cannot_be_is_refused() -> None:
    """Before anything is asked."""
    with pytest.raises(ConfigurationError, match="lock name"):
        store_on().observe("")


def test_a_lookout_logs_and_goes_on(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is told in a thread is told of nobody while the store refuses, then of who leads; not twice."""
    monkeypatch.setattr("leases.observer._AGAIN_MOST", 0.01)
    backend, told, refused = Stubborn(), list[Leader | None](), [True]

    def before(kind: str, name: str) -> None:
        if refused[0]:
            raise RecordRefused("job", "it is foreign", b"?")

    backend.before = before
    store = store_on(backend)
    lookout = Lookout(lambda: store.hub, "job", told.append)
    until(lambda: len(backend.calls) > 3)
    assert len([record for record in caplog.records if "cannot be seen" in record.getMessage()]) == 1
    refused[0] = False
    Lock("job", store=store, ttl=TTL, holder="one").acquire()
    until(lambda: len(told) == 2)
    assert holders(told) == [None, "one"]
    lookout.close()


# ---- what a sighting is worth --------------------------------------------------------------------


def slot(version: int, *, order: int | None = -1, ttl: float = 10.0, **claim: Any) -> Slot:
    made = Claim("one", "a" * 32, f"{version:016x}", ttl, 7, **claim)
    return Slot("job", version, made, version if order == -1 else order, body=b"%d" % version)


def at(seconds: float) -> Instant:
    return Instant(1000.0 + seconds, 50.0 + seconds, 1.0)


def test_a_version_counts_from_its_first_sighting() -> None:
    """Seeing it again renews nothing; seeing another version does."""
    sight = Sight(None)
    sight.note(slot(1), at(0))
    sight.note(slot(1), at(9.9))
    assert sight.leader(at(9.99)) and not sight.leader(at(10.0))
    sight.note(slot(2), at(10.0))
    assert sight.leader(at(19.9)) and sight.left(at(15.0)) == 5.0


def test_older_news_is_none() -> None:
    """A slot from before what is known changes nothing; without an order the last look counts."""
    sight = Sight(None)
    sight.note(slot(5), at(0))
    sight.note(slot(4), at(1))
    assert sight.slot == slot(5) and not sight.proven
    unordered = Sight(None)
    unordered.note(slot(5, order=None), at(0))
    unordered.note(slot(4, order=None), at(1))
    assert unordered.slot == slot(4, order=None)


def test_the_same_version_with_other_bytes_is_another() -> None:
    """A record that was removed and made anew may begin its versions again."""
    sight = Sight(None)
    sight.note(slot(1), at(0))
    sight.note(replace(slot(1), body=b"other"), at(9))
    assert sight.leader(at(18.9)) and sight.proven


def test_on_one_host_the_record_tells() -> None:
    """Where instants of the boot can be compared, a record that was sent long ago is nobody's at once."""
    sight = Sight("boot")
    sight.note(slot(1, boot="boot", sent=at(-9.0).hold), at(0))
    assert sight.left(at(0)) == 1.0 and not sight.leader(at(1.0))
    for boot, sent in (("another", at(-9.0).hold), ("boot", at(5.0).hold)):
        other = Sight("boot")
        other.note(slot(1, boot=boot, sent=sent), at(0))
        assert other.left(at(0)) == 10.0


def test_who_is_wary_waits_for_a_sign_of_life() -> None:
    """What stood there from the beginning may be that of the dead."""
    sight = Sight(None)
    sight.note(slot(1), at(0))
    assert sight.leader(at(1)) and not sight.leader(at(1), wary=True)
    sight.note(slot(2), at(2))
    assert sight.leader(at(3), wary=True)


def test_a_host_that_has_slept_has_heard_of_nobody() -> None:
    """Its own time may not be counted against the record; but who led when it fell asleep is an old name."""
    clock, sight = ManualClock(), Sight(None)
    sight.note(slot(1, ttl=TTL), clock())
    clock.advance(1)
    assert sight.outlook(clock()) == (sight.leader(clock()), TTL - 1)
    clock.suspend(TTL - 2)
    assert sight.outlook(clock())[1] == 1
    clock.suspend(1)
    assert sight.leader(clock()) is None
    assert sight.left(clock()) == TTL - 1, "a waiter has to go on waiting"


def test_a_free_record_is_nobody() -> None:
    """Nor is an absence."""
    sight = Sight(None)
    assert sight.leader(at(0)) is None and sight.left(at(0)) == 0.0
    sight.note(slot(1, state=State.FREE), at(0))
    assert sight.leader(at(0)) is None
    sight.note(Slot("job", None), at(0))
    assert sight.leader(at(0)) is None


def test_staleness_needs_no_store() -> None:
    """The script shows nobody at the very instant, by its own clock, without another look."""
    clock, backend = ManualClock(), Stubborn("etcd")
    store = store_on(backend, clock=clock)
    Lock("job", store=store, ttl=TTL, holder="one").acquire()
    script = observing(lambda: store.hub, "job", lambda: None)
    look: Any = next(script)
    look()
    assert next(script).leader.holder == "one"  # type: ignore[union-attr]
    assert 0 < next(script) <= TTL / 2  # type: ignore[operator] # it looks twice in a ttl
    clock.advance(0.9 * TTL)
    again: Any = next(script)
    again()
    rest: Any = next(script)
    assert rest == pytest.approx(0.1 * TTL)  # and then it is over, whatever comes of the next look
    backend.down = True
    clock.advance(rest)
    step: Any = next(script)
    if callable(step):
        step()
        step = next(script)
    assert step.leader is None
    script.close()
