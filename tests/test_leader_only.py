"""`leader_only`, on functions of both colours: who runs, who is skipped, and how leadership passes on."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any

import pytest

from callers import Colour, Gate, begin, leadership_of, led_by, stubborn
from callers import colour_ as colour_
from callers import plain_ as plain_
from callers import store_ as store_
from hands import PATIENCE
from leases import LeaseLost, NotLeader, Store, calls, leadership
from leases.errors import StoreDenied
from leases.testing.clock import ManualClock
from stores import Site, every_store
from stubborn import SHORT, break_, store_on, until

# ---- who runs ----------------------------------------------------------------------------------------


def test_the_only_candidate_runs_its_first_call(colour: Colour, store: Store) -> None:
    """It waits to be elected, runs, gets its arguments, and returns what it returns."""
    led = colour.make(lambda one, two: one + two, store=store)
    assert not led.is_leader
    assert colour.call(led, 1, 2) == 3
    assert led.is_leader and store.status("job").held


def test_it_leads_on_between_calls(colour: Colour, store: Store) -> None:
    """Every call has the token of the first; nothing is released in between."""
    led = colour.make(lambda: led.lease().token, store=store)
    assert colour.call(led) == colour.call(led) == store.status("job").token


def test_where_another_leads_it_is_skipped(colour: Colour, store: Store) -> None:
    """The call returns None, or the default, and the body does not run."""
    ran: list[int] = []
    with led_by(store):
        assert colour.call(colour.make(lambda: ran.append(1), store=store)) is None
        assert colour.call(colour.make(lambda: ran.append(2), store=store, default="skipped")) == "skipped"
    assert ran == []


def test_not_leader_says_who_leads(colour: Colour, store: Store) -> None:
    """otherwise="raise" raises, names the leader, and says what to do."""
    led = colour.make(store=store, otherwise="raise")
    with led_by(store, "web-3"), pytest.raises(NotLeader) as raised:
        colour.call(led)
    assert (raised.value.name, raised.value.holder, raised.value.timeout) == ("job", "web-3", None)
    assert str(raised.value) == 'this process does not lead "job", web-3 does; let that one run it'


def test_who_waits_runs_when_the_leader_has_gone(colour: Colour, store: Store) -> None:
    """otherwise="wait" waits for the lead, and then runs."""
    led = colour.make(store=store, otherwise="wait")
    with led_by(store):
        call = colour.begin(led)
        until(lambda: leadership_of(led)._settled)
        with pytest.raises(TimeoutError):
            call.result(0.05)
    assert call.result(PATIENCE) == "ran"


def test_who_waits_in_vain_is_told_who_leads(colour: Colour, store: Store) -> None:
    """After its timeout the call raises NotLeader with both."""
    led = colour.make(store=store, otherwise="wait", timeout=0.2)
    with led_by(store, "web-3"), pytest.raises(NotLeader) as raised:
        colour.call(led)
    assert (raised.value.holder, raised.value.timeout) == ("web-3", 0.2)
    assert "within 0.2 s" in str(raised.value)


def test_a_standby_takes_over_between_its_calls(colour: Colour, store: Store) -> None:
    """It campaigns in the background: when the leader goes, it leads although nobody calls it."""
    led = colour.make(store=store)
    with led_by(store):
        assert colour.call(led) is None
    until(lambda: led.is_leader)
    assert colour.call(led) == "ran"


@every_store
def test_one_of_two_replicas_runs(site: Site, plain: Colour) -> None:
    """On every store: of two replicas one runs each call, and the other does when that one has resigned."""
    one = plain.make(lambda: "one", store=site.store(), holder="one", ttl=5)
    two = plain.make(lambda: "two", store=site.store(), holder="two", ttl=5, otherwise="wait")
    assert one() == "one"
    waits = plain.begin(two)
    assert one() == "one" and not waits.done()
    assert one.resign(PATIENCE)
    assert waits.result(PATIENCE) == "two"
    assert one() is None


# ---- the end of the lead -----------------------------------------------------------------------------


def test_resign_frees_the_lock(colour: Colour, store: Store) -> None:
    """Nobody leads afterwards; the next call takes part anew, under a higher token."""
    led = colour.make(lambda: led.lease().token, store=store)
    first = colour.call(led)
    assert colour.resign(led, PATIENCE)
    assert not led.is_leader and not store.status("job").held
    assert colour.call(led) > first


def test_resign_before_any_call_is_harmless(colour: Colour, store: Store) -> None:
    """There is nothing to give up."""
    assert colour.resign(colour.make(store=store))


def test_resign_waits_for_the_call(colour: Colour, store: Store) -> None:
    """The call is told to stop, and the lock is free when it has."""
    gate, began = Gate(), threading.Event()

    def body() -> object:
        began.set()
        told = led.lease().ending.wait(PATIENCE)
        gate()
        return told

    led = colour.make(body, store=store)
    call = colour.begin(led)
    assert began.wait(PATIENCE)
    resigned = begin(colour.resign, led)
    gate.await_begin()
    assert store.status("job").held and not resigned.done()
    gate.go_on.set()
    assert call.result(PATIENCE) is True and resigned.result(PATIENCE) is True
    assert not store.status("job").held


def test_resign_comes_before_the_campaign(
    colour: Colour, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told so between the start of its thread and the first step in there, it takes no part."""
    gate, begin_ = Gate(), leadership._Candidate._begin

    def late(elector: Any, part: Any) -> None:
        gate()
        begin_(elector, part)

    monkeypatch.setattr(leadership._Candidate, "_begin", late)
    led = colour.make(store=store)
    call = colour.begin(led)
    gate.await_begin()
    assert not colour.resign(led, 0.01)
    gate.go_on.set()
    assert call.result(PATIENCE) is None
    assert not led.elector.is_leader and not store.status("job").held


def test_resign_waits_no_longer_than_it_may(colour: Colour, store: Store) -> None:
    """False when the time is over; it goes on in the background, and begins no call meanwhile."""
    gate = Gate()
    led = colour.make(gate, store=store)
    other = colour.make(store=store)
    call = colour.begin(led)
    gate.await_begin()
    assert not colour.resign(led, 0.05)
    assert store.status("job").held and colour.call(other) is None
    gate.go_on.set()
    assert call.result(PATIENCE) == "ran"
    until(lambda: not store.status("job").held)


def test_resign_ends_where_calls_do_not(plain: Colour, store: Store) -> None:
    """It waits for the end of this part of the process, and not of one that a later call has begun."""
    led = plain.make(store=store)
    led()
    led_by_it = leadership_of(led)

    def call_again() -> None:
        if led_by_it.thread is None:
            led()

    led_by_it._bells.append(call_again)  # Before who resigns hears of it.
    assert begin(led.resign).result(PATIENCE) is True
    until(lambda: led.is_leader)
    led_by_it._bells.remove(call_again)


def test_a_call_that_was_cut_off_at_its_end(
    colour: Colour, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C as it leaves: nobody waits for it all the same, and the lock can be freed."""

    def cut_off(self: object, error: object) -> None:
        raise KeyboardInterrupt

    led = colour.make(store=store)
    with monkeypatch.context() as patched:
        patched.setattr(calls.Call, "leave", cut_off)
        patched.setattr(calls.Call, "leave_async", cut_off)
        with pytest.raises(KeyboardInterrupt):
            colour.call(led)
    token = led.lease().token
    assert led.elector.resign(PATIENCE)
    until(lambda: led.is_leader)
    assert led.lease().token > token


def test_resign_in_a_call_is_refused(colour: Colour, store: Store) -> None:
    """It would wait for itself."""
    led = colour.make(lambda: led.resign(1), store=store)
    with pytest.raises(RuntimeError, match="return from it first"):
        colour.call(led)
    assert led.is_leader


def test_calls_of_one_process_run_at_once(colour: Colour, store: Store) -> None:
    """Leading is no mutual exclusion; resign waits for all of them."""
    gates = Gate(), Gate()
    led = colour.make(lambda gate: gate(), store=store)
    calls = [colour.begin(led, gate) for gate in gates]
    for gate in gates:
        gate.await_begin()
    resigned = begin(colour.resign, led)
    gates[0].go_on.set()
    assert calls[0].result(PATIENCE) == "ran"
    assert not resigned.done() and store.status("job").held
    gates[1].go_on.set()
    assert calls[1].result(PATIENCE) == "ran" and resigned.result(PATIENCE)


def test_loss_is_raised_at_the_end_of_the_call(colour: Colour, store: Store) -> None:
    """Whatever the call returns; the next one runs when this process leads again, under a higher token."""

    def body(loses: bool) -> object:
        lease = led.lease()
        if loses:
            break_(store, "job")
            assert lease.lost.wait(PATIENCE)
        return lease.token

    led = colour.make(body, store=store, ttl=SHORT)
    first = colour.call(led, False)
    with pytest.raises(LeaseLost) as raised:
        colour.call(led, True)
    assert (raised.value.reason, raised.value.token) == ("broken", first)
    until(lambda: led.is_leader)
    assert colour.call(led, False) > first


def test_an_error_of_the_function_stays_its_own(colour: Colour, store: Store) -> None:
    """It is raised as it is, with the loss as a note; without a loss there is none, and the lead is kept."""

    def body(loses: bool) -> None:
        if loses:
            break_(store, "job")
            assert led.lease().lost.wait(PATIENCE)
        raise ZeroDivisionError

    led = colour.make(body, store=store, ttl=SHORT)
    with pytest.raises(ZeroDivisionError) as raised:
        colour.call(led, False)
    assert not hasattr(raised.value, "__notes__") and led.is_leader
    with pytest.raises(ZeroDivisionError) as raised:
        colour.call(led, True)
    assert "broken" in raised.value.__notes__[0]


def test_check_refuses_after_the_loss(colour: Colour, store: Store) -> None:
    """A call that asks before each step stops there."""

    def body() -> None:
        led.lease().check()
        break_(store, "job")
        led.lease().lost.wait(PATIENCE)
        led.lease().check()

    led = colour.make(body, store=store, ttl=SHORT)
    with pytest.raises(LeaseLost):
        colour.call(led)


def test_on_lost_is_told_of_each_loss(plain: Colour, store: Store) -> None:
    """Once for each lease, with a call or without, and when it was given up, too."""
    told: list[tuple[int, str]] = []
    led = plain.make(
        lambda: led.lease().token,
        store=store,
        ttl=SHORT,
        on_lost=lambda lease, loss: told.append((lease.token, loss.reason)),
    )
    first = led()
    break_(store, "job")
    until(lambda: told)
    until(lambda: led.is_leader)
    second = led()
    assert led.resign(PATIENCE)
    assert told == [(first, "broken"), (second, "released")]


def test_work_that_may_be_done_twice_goes_on(plain: Colour, store: Store) -> None:
    """Under at-least-once a lease that ran out is no error at the end of the call."""

    def body() -> object:
        stubborn(store).down = True
        lease = led.lease()
        lost = lease.lost.wait(PATIENCE)
        lease.check()
        stubborn(store).down = False
        return lost

    led = plain.make(body, store=store, ttl=SHORT, semantics="at-least-once")
    assert led() is True
    until(lambda: led.is_leader)
    stubborn(store).down = True
    until(lambda: not led.is_leader)  # Between calls, too, it campaigns anew.
    stubborn(store).down = False
    until(lambda: led.is_leader)


def test_is_leader_reads_the_clock(plain: Colour) -> None:
    """Past the deadline it is false, though nobody has told anybody yet."""
    clock = ManualClock()
    store = store_on(clock=clock)
    led = plain.make(store=store, ttl=15)
    assert led() == "ran" and led.is_leader
    clock.advance(11.25)
    assert not led.is_leader
    store.hub.close()


def test_no_call_begins_once_work_is_to_stop(colour: Colour) -> None:
    """`stop_within` before the deadline it is skipped, though nobody has told anybody yet."""
    clock = ManualClock()
    store = store_on(clock=clock)
    led = colour.make(store=store, ttl=15, stop_within=2)
    assert colour.call(led) == "ran"
    clock.advance(9.3)
    assert led.is_leader and colour.call(led) is None
    store.hub.close()


def test_a_call_inside_a_call_that_is_to_end(colour: Colour, store: Store) -> None:
    """It is skipped; and it does not wait for a lead that comes when the outer call has ended."""
    inside = Colour(awaits=False)
    skips, waits = inside.make(store=store), inside.make(store=store, otherwise="wait")

    def body() -> None:
        assert skips() == waits() == "ran"
        stop = begin(colour.resign, outer)
        led = outer.lease()
        assert led.ending.wait(PATIENCE)
        assert skips() is None
        resigned.append(stop)
        waits()

    resigned: list[Future[Any]] = []
    outer = colour.make(body, store=store)
    with pytest.raises(LeaseLost):
        colour.call(outer)
    assert resigned[0].result(PATIENCE) is True


# ---- the store ---------------------------------------------------------------------------------------


def test_without_a_store_nobody_leads(colour: Colour, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first call waits for so long as it may; the next ones do when the store is there again."""
    monkeypatch.setattr(leadership, "_SETTLE_SECONDS", 0.2)
    stubborn(store).down = True
    led = colour.make(store=store, otherwise="raise", ttl=SHORT)
    with pytest.raises(NotLeader, match="nobody was seen to") as raised:
        colour.call(led)
    assert raised.value.holder is None
    stubborn(store).down = False
    until(lambda: led.is_leader)
    assert colour.call(led) == "ran"


def test_a_store_that_refuses_is_told_of(colour: Colour, store: Store) -> None:
    """The call raises what the store said; the one after it tries anew."""

    def denied(kind: str, name: str) -> None:
        raise StoreDenied("no such user; log in")

    stubborn(store).before = denied
    led = colour.make(store=store)
    with pytest.raises(StoreDenied):
        colour.call(led)
    stubborn(store).before = lambda kind, name: None
    assert colour.call(led) == "ran"


def test_a_refusal_that_nobody_waits_for_is_logged(
    plain: Colour, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """A standby that can be one no more says so at once, and tells the next call."""

    def denied(kind: str, name: str) -> None:
        raise StoreDenied("no such user; log in")

    led = plain.make(store=store)
    with led_by(store):
        assert led() is None
        stubborn(store).before = denied
    until(lambda: '<leader_only "job"> takes part no more' in caplog.text)
    with pytest.raises(StoreDenied):
        led()
    stubborn(store).before = lambda kind, name: None
    assert led() == "ran"


def test_all_that_wait_are_told_that_the_store_refuses(colour: Colour, store: Store) -> None:
    """And not only the first of them."""
    gate = Gate()

    def denied(kind: str, name: str) -> None:
        gate()
        raise StoreDenied("no such user; log in")

    stubborn(store).before = denied
    led = colour.make(store=store, otherwise="wait")
    calls = [colour.begin(led) for _ in range(2)]
    gate.await_begin()
    until(lambda: len(leadership_of(led)._bells) == 2)
    gate.go_on.set()
    for call in calls:
        with pytest.raises(StoreDenied):
            call.result(PATIENCE)


def test_who_waits_does_not_take_part_again(colour: Colour, store: Store) -> None:
    """When this process has resigned, a call that waited is told so; the next one takes part again."""
    led = colour.make(store=store, otherwise="wait")
    with led_by(store):
        call = colour.begin(led)
        until(lambda: led.elector.leader() is not None and leadership_of(led)._bells)
        assert colour.resign(led, PATIENCE)
        with pytest.raises(NotLeader):
            call.result(PATIENCE)
