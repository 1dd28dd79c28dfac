"""`leader_only`, on functions of both colours: who runs, who is skipped, and how leadership passes on."""

from __future__ import annotations

import asyncio
import gc
import inspect
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import pytest

from hands import PATIENCE
from leases import ConfigurationError, LeaseLost, NotLeader, Store, leader_only, leadership
from leases.errors import StoreDenied
from leases.testing.clock import ManualClock
from stores import Site, every_store
from stubborn import SHORT, Stubborn, another_process, break_, fresh_url, store_on, until


class Colour:
    """Decorates and calls functions of one colour."""

    def __init__(self, *, awaits: bool) -> None:
        self.awaits = awaits
        self.made: list[Any] = []

    def make(self, body: Callable[..., Any] = lambda *_: "ran", name: str = "job", **options: Any) -> Any:
        """A function under `leader_only` which calls another."""

        def function(*args: Any) -> Any:
            return body(*args)

        async def coroutine_function(*args: Any) -> Any:
            await asyncio.sleep(0)
            return body(*args)

        led = leader_only(name, **options)(coroutine_function if self.awaits else function)
        self.made.append(led)
        return led

    def call(self, led: Any, *args: Any) -> Any:
        """Call it, and await what it returns."""
        return asyncio.run(led(*args)) if self.awaits else led(*args)

    def resign(self, led: Any, timeout: float | None = None) -> bool:
        """Give up what it leads."""
        done: bool = asyncio.run(led.resign_async(timeout)) if self.awaits else led.resign(timeout)
        return done

    def begin(self, led: Any, *args: Any) -> Future[Any]:
        """Call it in a thread of its own."""
        return begin(self.call, led, *args)

    def close(self) -> None:
        for led in self.made:
            assert led.resign(PATIENCE), "it takes part for ever"


def begin(function: Callable[..., Any], *args: Any) -> Future[Any]:
    """Call something in a thread of its own."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(function(*args))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


@pytest.fixture(params=[False, True], ids=["function", "coroutine"])
def colour(request: pytest.FixtureRequest, store: Store) -> Iterator[Colour]:
    made = Colour(awaits=request.param)
    yield made
    made.close()


@pytest.fixture
def plain(store: Store) -> Iterator[Colour]:
    made = Colour(awaits=False)
    yield made
    made.close()


@pytest.fixture
def store() -> Iterator[Store]:
    made = store_on(Stubborn())
    yield made
    made.hub.close()


def stubborn(store: Store) -> Stubborn:
    backend = store.hub.backend
    assert isinstance(backend, Stubborn)
    return backend


@contextmanager
def led_by(store: Store, holder: str = "another", name: str = "job") -> Generator[None]:
    """Somebody else leads."""
    with another_process(store) as other, other.lock(name, holder=holder):
        yield


class Gate:
    """A body that says that it has begun, and goes on when it is told to."""

    def __init__(self) -> None:
        self.began, self.go_on = threading.Event(), threading.Event()

    def __call__(self) -> str:
        self.began.set()
        assert self.go_on.wait(PATIENCE)
        return "ran"

    def await_begin(self) -> None:
        assert self.began.wait(PATIENCE), "it did not begin"


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
        until(lambda: led.elector.leader() is not None)
        assert not call.done()
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
    gate = Gate()

    def body() -> object:
        told = led.lease().ending.wait(PATIENCE)
        gate()
        return told

    led = colour.make(body, store=store)
    call = colour.begin(led)
    until(lambda: led.is_leader)
    resigned = begin(colour.resign, led)
    gate.await_begin()
    assert store.status("job").held and not resigned.done()
    gate.go_on.set()
    assert call.result(PATIENCE) is True and resigned.result(PATIENCE) is True
    assert not store.status("job").held


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


def test_is_leader_reads_the_clock(plain: Colour) -> None:
    """Past the deadline it is false, though nobody has told anybody yet."""
    clock = ManualClock()
    store = store_on(clock=clock)
    led = plain.make(store=store, ttl=15)
    assert led() == "ran" and led.is_leader
    clock.advance(11.25)
    assert not led.is_leader
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


# ---- several functions -------------------------------------------------------------------------------


def test_functions_of_one_name_share_the_lead(colour: Colour, store: Store) -> None:
    """One elector for both, and one lease."""
    one = colour.make(lambda: one.lease().token, store=store)
    two = colour.make(lambda: two.lease().token, store=store, otherwise="raise")
    assert one.elector is two.elector
    assert colour.call(one) == colour.call(two)


def test_functions_of_two_names_lead_apart(plain: Colour, store: Store) -> None:
    """A process may lead the one and not the other."""
    one, two = plain.make(store=store), plain.make(name="other", store=store)
    with led_by(store):
        assert (one(), two()) == (None, "ran")


def test_different_options_for_one_name_are_refused(plain: Colour, store: Store) -> None:
    """Which of the two would it be?"""
    plain.make(store=store, ttl=5)
    with pytest.raises(ConfigurationError, match="ttl=5, this one with ttl=6; give them the same"):
        plain.make(store=store, ttl=6)


def test_one_store_named_in_two_ways_is_refused(plain: Colour, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two candidates of one process: one of them would never lead, in silence."""
    url = fresh_url()
    monkeypatch.setenv("LEASES_URL", url)
    one, two = plain.make(), plain.make(store=url)
    assert one() == "ran"
    with pytest.raises(ConfigurationError, match="name it alike in both"):
        two()


def test_a_name_is_free_again_when_its_functions_have_gone(plain: Colour, store: Store) -> None:
    """Options are compared with functions that are there."""
    plain.make(store=store, ttl=5)
    plain.made.clear()
    gc.collect()
    plain.make(store=store, ttl=6)


# ---- what is decorated -------------------------------------------------------------------------------


def test_it_looks_like_the_function(colour: Colour, store: Store) -> None:
    """Name, module and colour are those of the function, for schedulers that look at them."""
    led = colour.make(store=store)
    assert led.__name__ == ("coroutine_function" if colour.awaits else "function")
    assert led.__module__ == __name__
    assert inspect.iscoroutinefunction(led) is colour.awaits
    assert repr(led.is_leader) == '<does not lead "job">'
    assert inspect.isfunction(led)


def test_methods(store: Store) -> None:
    """A method gets its object, a class method its class."""

    class Job:
        @leader_only("job", store=store)
        def run(self) -> str:
            return type(self).__name__

        @classmethod
        @leader_only("job", store=store)
        def run_class(cls) -> str:
            return cls.__name__

    job: Any = Job  # Type checkers differ on what a class method makes of what is no function to them.
    assert Job().run() == job.run_class() == "Job"
    assert Job.run.resign(PATIENCE)


@pytest.mark.parametrize("options", [
    {"otherwise": "ignore"}, {"default": 1, "otherwise": "wait"}, {"default": 1, "otherwise": "raise"},
    {"timeout": 1}, {"timeout": -1, "otherwise": "wait"}, {"timeout": 1, "otherwise": "raise"},
    {"ttl": 0}, {"ttl": 5, "on_lost": "explode"}, {"store": "nowhere"}, {"store": object()},
    {"store": {}}, {"name": ""}, {"name": 5}, {"name": []}, {"terms": 5}, {"stop_within": 100},
    {"semantics": "at-least-once", "on_lost": "exit"}, {"on_lost": "cancel"},
], ids=str)  # fmt: skip
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    """When the function is decorated, and not when it is called."""
    options = {"name": "job", "store": fresh_url(), **options}
    with pytest.raises(ConfigurationError):
        leader_only(options.pop("name"), **options)(lambda: None)


def test_an_option_that_is_none_is_refused() -> None:
    """As Python does it."""
    with pytest.raises(TypeError, match="'tll'"):
        leader_only("job", tll=5)  # type: ignore[call-overload]


def test_without_a_name_it_says_what_to_write() -> None:
    """The function itself is taken for the name then."""
    with pytest.raises(ConfigurationError, match='write @leader_only\\("nightly"\\)'):
        leader_only(lambda: None)  # type: ignore[call-overload]


def test_generator_functions_are_refused() -> None:
    """Their body would run when the call has ended long since."""

    def rows() -> Iterator[int]:
        yield 1

    async def rows_async() -> Any:
        yield 1

    for function in rows, rows_async:
        with pytest.raises(ConfigurationError, match=r"rows.*a generator function"):
            leader_only("job")(function)


def test_what_is_no_function_is_refused() -> None:
    """A class method has to be made last."""
    with pytest.raises(ConfigurationError, match="put @classmethod above"):
        leader_only("job")(classmethod(lambda cls: None))  # type: ignore[call-overload]


def test_lease_outside_of_a_call(plain: Colour, store: Store) -> None:
    """The one under which this process leads, or NotLeader."""
    led = plain.make(store=store)
    with pytest.raises(NotLeader):
        led.lease()
    led()
    assert led.lease().held
