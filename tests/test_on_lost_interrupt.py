"""``on_lost="interrupt"``: the main thread is interrupted wherever it waits, and never after its body."""

# ruff: noqa: PT012 - what a body of several lines raises is what is tried here

from __future__ import annotations

import gc
import os
import queue
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from leases import Lease, LeaseLost, Lock, Store
from leases.interrupting import Interrupt
from stubborn import SHORT, Stubborn, another_process, leftovers, lose, store_on, until
from test_interrupts import CtrlC

OURS = "/leases/"
LONG = bool(os.environ.get("LEASES_LONG"))


@pytest.fixture(autouse=True)
def _given_back() -> Iterator[None]:  # pyright: ignore[reportUnusedFunction] # pytest asks for it
    """Every test leaves the signal with whom it was, and nobody served."""
    before = signal.getsignal(signal.SIGURG)
    yield
    assert signal.getsignal(signal.SIGURG) == before


def lock_on(store: Store, name: str = "job", **options: Any) -> Lock:
    given: dict[str, Any] = {"on_lost": "interrupt", **options}
    return Lock(name, store=store, **given)


Lose = Callable[[], None]


def asleep(lose: Lose) -> None:
    lose()
    time.sleep(30)


def waiting_for_a_lock(lose: Lose) -> None:
    lock = threading.Lock()
    lock.acquire()
    lose()
    lock.acquire()


def waiting_for_a_lock_of_ours(lose: Lose) -> None:
    store = store_on()
    with Lock("theirs", store=store):
        lose()
        Lock("theirs", store=another_process(store)).acquire()


def waiting_for_a_queue(lose: Lose) -> None:
    waiting = queue.SimpleQueue[None]()
    lose()
    waiting.get()


def reading_from_a_socket(lose: Lose) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        lose()
        ours.recv(1)


def waiting_for_a_process(lose: Lose) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"]) as child:
        try:
            lose()
            child.wait()
        finally:
            child.kill()


def busy(lose: Lose) -> None:
    lose()
    while True:
        pass


@pytest.mark.parametrize(
    "work",
    [
        asleep,
        waiting_for_a_lock,
        waiting_for_a_lock_of_ours,
        waiting_for_a_queue,
        reading_from_a_socket,
        waiting_for_a_process,
        busy,
    ],
    ids=lambda work: work.__name__,
)
def test_main_thread_is_interrupted(work: Callable[[Lose], None]) -> None:
    """Whatever it waits for, LeaseLost comes out of there at once."""
    with store_on() as store:
        began = time.monotonic()
        with pytest.raises(LeaseLost) as raised, lock_on(store):
            work(lambda: threading.Timer(0.02, lose, (store, "job")).start())
        assert raised.value.name == "job"
        assert time.monotonic() - began < 10


class Destroyed:
    """Does something when it is destroyed."""

    def __init__(self, does: Callable[[], None]) -> None:
        self._does = does

    def __del__(self) -> None:
        self._does()


def in_a_destructor(does: Callable[[], None]) -> None:
    Destroyed(does)


def as_garbage_is_collected(does: Callable[[], None]) -> None:
    def callback(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            does()

    gc.callbacks.append(callback)
    try:
        gc.collect()
    finally:
        gc.callbacks.remove(callback)


def as_a_reference_ends(does: Callable[[], None]) -> None:
    class Loud(set[Any]):
        def discard(self, element: Any) -> None:
            does()

    found = weakref.WeakSet[Any]()
    found.data = Loud()  # type: ignore[attr-defined] # It is Python's own, and calls this when one ends.
    found.add(Destroyed(lambda: None))


@pytest.mark.parametrize(
    "deaf",
    [in_a_destructor, as_garbage_is_collected, as_a_reference_ends],
    ids=lambda deaf: deaf.__name__,
)
def test_what_swallows_every_error_is_not_struck(deaf: Callable[[Callable[[], None]], None]) -> None:
    """Python prints what is raised in there, and goes on: it is raised as soon as the body is back."""
    with store_on() as store, pytest.raises(LeaseLost), lock_on(store) as lease:

        def loses() -> None:
            stopper = interrupt_of(lease)
            stopper.loss = _loss()
            signal.raise_signal(signal.SIGURG)
            start(stopper._knock)

        deaf(loses)
        time.sleep(30)
        raise AssertionError("nothing came")


def test_handler_that_is_struck_raises_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next signal comes while it is about to raise: it is the first that raises, and not in there."""
    inner: list[BaseException] = []
    loss = _loss()
    with store_on() as store, pytest.raises(LeaseLost) as raised, lock_on(store) as lease:
        stopper = interrupt_of(lease)
        end = stopper.end

        def struck() -> None:
            try:
                signal.raise_signal(signal.SIGURG)
            except LeaseLost as error:
                inner.append(error)
            end()

        monkeypatch.setattr(stopper, "end", struck)
        stopper.loss = loss
        signal.raise_signal(signal.SIGURG)
    assert raised.value is loss and inner == []


def test_it_comes_before_the_deadline() -> None:
    """With stop_within there is so much time to clean up in, under a lease that stands."""
    backend = Stubborn()
    left = -1.0
    lock = lock_on(store_on(backend), ttl=2.0, stop_within=0.45)
    with pytest.raises(LeaseLost, match="expired"), lock as lease:
        backend.down = True
        try:
            time.sleep(30)
        finally:
            left = lease.remaining
    assert 0 < left <= 0.45


def test_function_is_called_besides() -> None:
    """A word and a function: both come."""
    losses: list[str] = []
    with store_on() as store:
        lock = lock_on(store, on_lost=("interrupt", lambda lease, loss: losses.append(loss.reason)))
        with pytest.raises(LeaseLost), lock:
            lose(store, "job")
            time.sleep(30)
    until(lambda: len(losses) == 1)


def test_body_that_swallows_it_is_struck_once() -> None:
    """Who suppresses the interruption goes on undisturbed, and has the loss at the end of the body."""
    strikes = 0
    with store_on() as store, pytest.raises(LeaseLost), lock_on(store):
        lose(store, "job")
        end = time.monotonic() + 0.6
        while time.monotonic() < end:
            try:
                time.sleep(0.3)
            except LeaseLost:
                strikes += 1
    assert strikes == 1


def test_ctrl_c_stays_what_it_is() -> None:
    """Ctrl-C in such a body is a KeyboardInterrupt, and the lock is released."""
    with store_on() as store:
        with pytest.raises(KeyboardInterrupt), lock_on(store):
            signal.raise_signal(signal.SIGINT)
            time.sleep(30)
        assert store.status("job").holder is None


@pytest.mark.parametrize("which", ["inner", "outer", "both"])
def test_nested_locks(which: str) -> None:
    """The loss that comes out says which lock was lost; after the inner body the outer is still served."""
    with store_on() as store:
        inner, outer = lock_on(store, "inner"), lock_on(store, "outer")
        with pytest.raises(LeaseLost) as raised, outer, inner:
            for name in ("inner", "outer"):
                if which in (name, "both"):
                    lose(store, name)
            time.sleep(30)
        assert which in (raised.value.name, "both")
        with pytest.raises(LeaseLost, match="outer"), lock_on(store, "outer again", timeout=5):
            with lock_on(store, "inner again"):
                pass
            lose(store, "outer again")
            time.sleep(30)


def test_released_in_another_order() -> None:
    """Leases that were acquired one after another may be released in the same order, and each is served."""
    with store_on() as store:
        first, second = lock_on(store, "first").acquire(), lock_on(store, "second").acquire()
        first.release()
        lose(store, "second")
        with pytest.raises(LeaseLost):
            time.sleep(30)
        second.release()


def test_released_by_another_thread() -> None:
    """The signal is given back even where the release comes from elsewhere."""
    with store_on() as store:
        lease = lock_on(store).acquire()
        thread = threading.Thread(target=lease.release)
        thread.start()
        thread.join()
        until(lambda: signal.getsignal(signal.SIGURG) == signal.SIG_DFL)


def test_handler_of_somebody_else_is_called_and_comes_back() -> None:
    """What is not ours goes to whose handler it was before, who has the signal back afterwards."""
    heard: list[int] = []

    def theirs(number: int, frame: FrameType | None) -> None:
        heard.append(number)

    before = signal.signal(signal.SIGURG, theirs)
    try:
        with store_on() as store, lock_on(store):
            signal.raise_signal(signal.SIGURG)
            assert heard == [signal.SIGURG]
        assert signal.getsignal(signal.SIGURG) is theirs
    finally:
        signal.signal(signal.SIGURG, before)


def test_handler_that_somebody_sets_meanwhile_stays() -> None:
    """Who takes the signal during the body keeps it."""
    before = signal.getsignal(signal.SIGURG)
    try:
        with store_on() as store, lock_on(store):
            signal.signal(signal.SIGURG, signal.SIG_IGN)
        assert signal.getsignal(signal.SIGURG) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGURG, before)


def test_handler_that_somebody_sets_meanwhile_is_called_too() -> None:
    """Another acquisition in that body is served nevertheless, and theirs is called for what is not ours."""
    heard: list[int] = []

    def theirs(number: int, frame: FrameType | None) -> None:
        heard.append(number)

    before = signal.getsignal(signal.SIGURG)
    try:
        with store_on() as store, lock_on(store, "outer"):
            signal.signal(signal.SIGURG, theirs)
            with pytest.raises(LeaseLost), lock_on(store):
                signal.raise_signal(signal.SIGURG)
                lose(store, "job")
                time.sleep(30)
        assert signal.getsignal(signal.SIGURG) is theirs and heard
    finally:
        signal.signal(signal.SIGURG, before)


def test_child_of_a_fork_is_not_interrupted() -> None:
    """A child holds nothing: it has the signal back at once, and its parent's loss is not its own."""
    with store_on() as store, pytest.raises(LeaseLost), lock_on(store):
        child = os.fork()
        if child == 0:
            free = signal.getsignal(signal.SIGURG) == signal.SIG_DFL
            os._exit(0 if free else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        lose(store, "job")
        time.sleep(30)


# ---- never after the body ------------------------------------------------------------------------


class Strike:
    """At the n-th place in the library where a signal's handler could run, the lease is lost."""

    def __init__(self, place: int) -> None:
        self.place, self.count, self.where = place, 0, ""
        self.stopper: Interrupt | None = None

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        code = frame.f_code
        if event not in ("call", "c_return") or OURS not in code.co_filename or code.co_name == "<genexpr>":
            return
        self.count += 1
        if self.count == self.place and self.stopper is not None:
            sys.setprofile(None)
            self.where = f"{event} in {code.co_qualname}, line {frame.f_lineno}"
            self.stopper.loss = LeaseLost("job", "superseded", 0.0, 1)
            signal.raise_signal(signal.SIGURG)


def interrupt_of(lease: Lease) -> Interrupt:
    stopper = lease._stopper
    assert isinstance(stopper, Interrupt)
    return stopper


def test_nothing_strikes_the_end_of_a_body() -> None:
    """At every instruction from the first of `__exit__` on, a signal that comes then changes nothing."""
    place, struck = 0, True
    while struck:
        place += 1
        with store_on() as store:
            strike = Strike(place)
            try:
                with lock_on(store) as lease:
                    strike.stopper = interrupt_of(lease)
                    sys.setprofile(strike)
            finally:
                sys.setprofile(None)
            assert store.status("job").holder is None, f"after {strike.where} it was not released"
            assert signal.getsignal(signal.SIGURG) == signal.SIG_DFL, strike.where
            struck = bool(strike.where)
    assert place > 20


@pytest.mark.parametrize("how", ["lease", "lock"])
def test_nothing_strikes_a_release(how: str) -> None:
    """The same where there is no body: from the first instruction of `release` on."""
    place, struck = 0, True
    while struck:
        place += 1
        with store_on() as store:
            strike = Strike(place)
            lock = lock_on(store)
            lease = lock.acquire()
            strike.stopper = interrupt_of(lease)
            release = lease.release if how == "lease" else lock.release
            sys.setprofile(strike)
            try:
                release()
            finally:
                sys.setprofile(None)
            assert store.status("job").holder is None, strike.where
            struck = bool(strike.where)
    assert place > 20


def test_ctrl_c_gives_the_signal_back() -> None:
    """S26: wherever Ctrl-C comes in a body, nobody is served any more afterwards; at every 23rd place."""
    place, struck = 1, True
    while struck:
        with store_on() as store:
            ctrl_c = CtrlC(place)
            lock = lock_on(store, ttl=SHORT)
            with ctrl_c.struck(), lock:
                pass
            until(lambda store=store: not leftovers(store))  # type: ignore[misc]
        assert signal.getsignal(signal.SIGURG) == signal.SIG_DFL, f"after {ctrl_c.where}"
        struck, place = bool(ctrl_c.where), place + 23
    assert place > 60


def test_strike_between_acquisition_and_body(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss as early as that comes out of the `with` statement, whose body does not run."""
    begin = Interrupt.begin

    def struck(self: Interrupt, *args: Any) -> None:
        begin(self, *args)
        self.loss = _loss()
        signal.raise_signal(signal.SIGURG)

    monkeypatch.setattr(Interrupt, "begin", struck)
    with store_on() as store:
        with pytest.raises(LeaseLost), lock_on(store):
            raise AssertionError("the body ran")
        until(lambda: not leftovers(store))
        assert store.status("job").holder is None


def test_end_of_another_body_is_not_struck() -> None:
    """A loss that comes while another lock is released waits until that is done, and strikes then."""
    with store_on(Stubborn()) as store:
        backend: Any = store.hub.backend
        inside = threading.Event()

        def slow(kind: str, name: str) -> None:
            if name == "other":
                inside.set()
                time.sleep(0.1)

        other = Lock("other", store=store).acquire()
        backend.before = slow
        released = False
        served: list[Interrupt] = []

        def strike() -> None:
            inside.wait()
            served[0].stop(_loss(), None, start)

        stop = threading.Thread(target=strike)
        stop.start()
        with pytest.raises(LeaseLost, match="job"), lock_on(store) as lease:
            served.append(interrupt_of(lease))
            other.release()
            released = True
            time.sleep(30)
        assert released and store.status("other").holder is None
        stop.join()


@pytest.mark.parametrize("how", ["acquire", "status"])
def test_call_to_a_store_is_not_struck(how: str) -> None:
    """There an error would be taken for one of the store: it waits until the answer is there."""
    backend = Stubborn()
    with store_on(backend) as store:
        other = Lock("other", store=store)
        served: list[Interrupt] = []

        def slow(kind: str, name: str) -> None:
            if name == "other" and not served[0].loss:
                served[0].stop(_loss(), None, start)
                time.sleep(0.1)

        acquired: list[Lease] = []
        with pytest.raises(LeaseLost, match="job"), lock_on(store) as lease:
            served.append(interrupt_of(lease))
            backend.before = slow
            if how == "acquire":
                acquired.append(other.acquire())
            else:
                assert store.status("other").holder is None
                acquired.append(lease)
            time.sleep(30)
        assert acquired and acquired[0].held is (how == "acquire")
        acquired[0].release()


def _loss() -> LeaseLost:
    return LeaseLost("job", "superseded", 0.0, 1)


def start(call: Callable[[], None]) -> None:
    threading.Thread(target=call, daemon=True).start()


def test_losses_at_any_time_strike_no_further_than_the_body() -> None:
    """Bodies that end as their lease is lost: LeaseLost comes out of the `with` statement, or not at all."""
    chance, quickly = random.Random(7), sys.getswitchinterval()
    struck = 0
    sys.setswitchinterval(0.0001)
    try:
        struck = _strikes(2000 if LONG else 150, chance)
    finally:
        sys.setswitchinterval(quickly)
    assert struck > 0


def _strikes(rounds: int, chance: random.Random) -> int:
    struck = 0
    with store_on() as store:
        for _ in range(rounds):
            go = threading.Event()
            lock, after, work = lock_on(store), chance.random() * 0.002, chance.random() * 0.005
            leases: list[Lease] = []
            thread = threading.Thread(target=_strike_later, args=(go, leases, after))
            thread.start()
            try:
                with lock as lease:
                    leases.append(lease)
                    go.set()
                    _spin(work)
            except LeaseLost:
                struck += 1
            _spin(0.001)  # What comes here would end the test.
            thread.join()
    return struck


def _strike_later(go: threading.Event, leases: list[Lease], seconds: float) -> None:
    go.wait()
    _spin(seconds)
    interrupt_of(leases[0]).stop(_loss(), None, start)


def _spin(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass
