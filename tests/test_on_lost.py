"""What ends the work when its lease is lost: the words of `on_lost`, both semantics, and stopping early."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from hands import Hands
from leases import ConfigurationError, Elector, Lease, LeaseLost, Lock, Store
from leases.clock import system_clock
from leases.testing.clock import ManualClock
from stubborn import PATIENCE, Stubborn, break_, hint, leftovers, look, lose, memory, store_on, until

TTL = 15.0
V = 11.25  # of such a ttl; renewed after 5 s, with 2.8125 s for each attempt


def lock_on(store: Store, **options: Any) -> Lock:
    return Lock("job", store=store, **options)


def after(clock: ManualClock, store: Store, seconds: float) -> None:
    """So much later; everybody looks at the clock then."""
    clock.advance(seconds)
    look(store)


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"on_lost": "ignore"}, "on_lost='ignore' is neither one of"),
        ({"on_lost": ("ignore", print)}, "is neither one of"),
        ({"on_lost": ("kill", 5)}, "is neither one of"),
        ({"on_lost": ("exit",)}, "is neither one of"),
        ({"on_lost": (print, "exit")}, "is neither one of"),
        ({"on_lost": asyncio.sleep}, "is a coroutine function, and it is called in a thread"),
        ({"on_lost": ("exit", asyncio.sleep)}, "is a coroutine function"),
        ({"on_lost": None}, "on_lost=None is neither one of"),
        ({"semantics": "exactly-once"}, "semantics='exactly-once' is neither"),
        ({"stop_within": -1}, "stop_within=-1 is not a number of seconds"),
        ({"stop_within": "1"}, "stop_within='1' is not a number of seconds"),
        ({"stop_within": False}, "stop_within=False is not a number of seconds"),
        ({"stop_within": float("nan")}, "stop_within=nan is not a number of seconds"),
        ({"stop_within": 3.4375}, r"stop_within=3.4375 s does not fit ttl=15 s.*less than 3.44"),
        ({"semantics": "at-least-once", "stop_within": 1}, "stop_within=1 contradicts"),
        *(
            ({"semantics": "at-least-once", "on_lost": word}, f'on_lost="{word}" contradicts')
            for word in ("cancel", "interrupt", "exit", "kill")
        ),
        ({"semantics": "at-least-once", "on_lost": ("exit", print)}, 'on_lost="exit" contradicts'),
    ],
)
def test_what_cannot_be_is_refused_at_construction(options: dict[str, Any], why: str) -> None:
    """No such word, a contradiction, a stop that would strike a healthy lease: nothing is sent to a store."""
    with pytest.raises(ConfigurationError, match=why):
        Lock("job", **options)


@pytest.mark.parametrize(
    "options",
    [
        {"on_lost": "raise"},
        {"on_lost": print},
        {"on_lost": ("raise", print), "semantics": "at-least-once"},
        *({"on_lost": word, "stop_within": 3.4} for word in ("cancel", "interrupt", "exit", "kill")),
        *({"on_lost": (word, print)} for word in ("cancel", "interrupt", "exit", "kill")),
        {"semantics": "at-least-once"},
        {"stop_within": 0},
    ],
)
def test_what_fits_is_taken(options: dict[str, Any]) -> None:
    """Every word alone and with a function; seconds that leave room for a renewal to be late."""
    Lock("job", **options)


def test_plain_lock_loads_nothing_of_this() -> None:
    """Who asks for no more than the default does not pay for it."""
    code = (
        "import sys; from leases import Lock\n"
        "with Lock('job', store='memory:'): pass\n"
        "heavy = {'asyncio', 'ctypes', 'subprocess', 'leases.endings', 'leases.stopper'}\n"
        "print(*sorted(heavy & {*sys.modules}))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == ""


# ---- at most once: told to stop before the deadline ----------------------------------------------


def early(clock: ManualClock, **options: Any) -> tuple[Store, Lease]:
    """A lease on a store that has just gone down, whose work is to stop 3 s before the deadline."""
    backend = Stubborn()
    store = store_on(backend, clock=clock)
    lease = lock_on(store, stop_within=3.0, **options).acquire()
    backend.down = True
    return store, lease


def test_work_is_to_stop_before_the_deadline() -> None:
    """From `stop_within` before the deadline on `ending` is true and `check` refuses; the lease stands."""
    clock = ManualClock()
    _, lease = early(clock)
    clock.advance(V - 3.001)
    lease.check()
    assert not lease.ending
    clock.advance(0.001)
    assert lease.ending and lease.held and not lease.lost and lease.remaining == pytest.approx(3.0)
    with pytest.raises(LeaseLost) as raised:
        lease.check()
    assert (raised.value.reason, raised.value.at) == ("expired", clock().hold)


def test_renewal_that_comes_late_takes_nothing_back() -> None:
    """Work that was told to stop is told so for ever, though the lease goes on to stand for a while."""
    clock = ManualClock()
    backend = Stubborn()
    with store_on(backend, clock=clock) as store:
        lease = lock_on(store, stop_within=3.0).acquire()
        clock.advance(V - 3)
        assert lease.ending
        look(store)  # A renewal is overdue, and sent now.
        until(lambda: lease.remaining > 3)
        assert lease.ending and lease.ending.reason == "expired"
        lease.release()


def test_lease_told_to_stop_runs_out() -> None:
    """Once the work was told to stop there are no more renewals: who does not stop loses the lease."""
    backend = Stubborn()
    with store_on(backend) as store:
        lease = lock_on(store, ttl=2.0, stop_within=0.45).acquire()
        backend.down = True
        assert lease.ending.wait(5) and lease.held
        backend.down = False
        assert lease.lost.wait(5)
        assert lease.lost.reason == "expired"
        lease.release()


def test_ending_wakes_who_waits_for_it(hands: Hands) -> None:
    """Both colours wait for `ending` until the instant before the deadline, and need nobody to tell them."""
    backend = Stubborn()
    with store_on(backend) as store:
        hand = hands.hand()
        lease = hand("acquire", lock_on(store, ttl=2.0, stop_within=0.45))
        backend.down = True
        assert hand("wait", lease.ending, 5)
        assert lease.held and 0 < lease.remaining <= 0.45
        hand("release", lease)


def test_function_is_told_when_the_work_is_to_stop() -> None:
    """With stop_within the call comes so much before the deadline, while the lease stands; and only once."""
    calls: list[tuple[float, LeaseLost]] = []
    backend = Stubborn()
    with store_on(backend) as store:
        lock = lock_on(
            store,
            ttl=2.0,
            stop_within=0.45,
            on_lost=lambda lease, loss: calls.append((lease.remaining, loss)),
        )
        lease = lock.acquire()
        backend.down = True
        assert lease.lost.wait(5)
        time.sleep(0.05)
        lease.release()
    [(remaining, loss)] = calls
    assert remaining > 0 and loss.reason == "expired" and loss.at < lease.deadline


def test_work_that_stops_in_time_ran_into_no_loss(hands: Hands) -> None:
    """A body that ends between the instant to stop and the deadline ran under its lease: no error."""
    clock = ManualClock()
    backend = Stubborn()
    with store_on(backend, clock=clock) as store:
        lock = lock_on(store, stop_within=3.0)

        def work(lease: Lease) -> bool:
            backend.down = True
            after(clock, store, V - 1)
            backend.down = False  # Or the release would wait for a clock that stands.
            return bool(lease.ending)

        assert hands.hand().body(lock, work).result(PATIENCE)


def test_lease_that_is_renewed_is_not_told_to_stop() -> None:
    """A healthy lease goes on for many times the instant at which its work would have to stop."""
    calls: list[object] = []
    with store_on() as store:
        lock = lock_on(store, ttl=1.5, stop_within=0.1, on_lost=lambda *call: calls.append(call))
        with lock as lease:
            end = time.monotonic() + 2.0
            while time.monotonic() < end:
                lease.check()
                time.sleep(0.01)
    assert calls == []


def test_lease_granted_with_too_little_left_is_none(hands: Hands) -> None:
    """Where sealing a fence leaves no time to work in, the acquisition says so, and leaves nothing behind."""
    clock = ManualClock()
    backend = Stubborn()

    class Slow:
        def seal(self, lease: Lease) -> None:
            backend.down = True
            clock.advance(V - 2)

    with store_on(backend, clock=clock) as store:
        hand = hands.hand()
        with pytest.raises(LeaseLost, match="expired"):
            hand("acquire", lock_on(store, stop_within=3.0, fences=[Slow()]))
        backend.down = False

        def settled() -> bool:
            after(clock, store, 1)
            return leftovers(store) == []

        until(settled)
        hand("acquire", lock_on(store, stop_within=3.0)).release()


def test_elector_granted_too_late_takes_part_again() -> None:
    """It is no error of the work, which begins with the next lease."""
    backend = Stubborn()
    seals: list[float] = []

    class Slow:
        def seal(self, lease: Lease) -> None:
            seals.append(lease.deadline)
            if len(seals) == 1:
                backend.down = True
                time.sleep(max(lease.deadline - system_clock().hold - 0.2, 0))
                backend.down = False

    tokens: list[int] = []
    with store_on(backend) as store:
        elector = Elector("job", store=store, ttl=2.0, stop_within=0.4, fences=[Slow()])

        def work(lease: Lease) -> None:
            tokens.append(lease.token)
            elector.stop(0)

        elector.run(work)
    assert len(seals) == 2 and len(tokens) == 1


# ---- at least once: silence stops nothing --------------------------------------------------------


def broken(store: Store) -> None:
    break_(store, "job")
    hint(store, "job")


def tolerant(store: Store, **options: Any) -> Lock:
    return lock_on(store, semantics="at-least-once", **options)


def test_at_least_once_goes_on_through_silence() -> None:
    """After the deadline the lease is not held, and says so; `check` and `ending` let the work go on."""
    clock = ManualClock()
    with store_on(clock=clock) as store:
        lease = tolerant(store).acquire()
        after(clock, store, 100)
        lease.check()
        assert not lease.ending and not lease.held and lease.lost.reason == "expired"
        lease.release()
        assert lease.ending


def test_at_least_once_runs_out_with_a_warning(hands: Hands, caplog: pytest.LogCaptureFixture) -> None:
    """A body whose lease ran out ends well, and the log says what happened."""
    clock = ManualClock()
    with store_on(clock=clock) as store:
        hands.hand().body(tolerant(store), lambda _: after(clock, store, 100)).result(PATIENCE)
    until(lambda: "its work went on, as at-least-once allows" in caplog.text)


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (lambda store, lease: lose(store, "job"), "superseded"),
        (lambda store, lease: broken(store), "broken"),
        (lambda store, lease: store.close(), "closed"),
    ],
)
def test_at_least_once_stops_when_the_end_was_seen(
    hands: Hands, end: Callable[[Store, Lease], object], reason: str
) -> None:
    """What is known to be over is refused under either semantics, and raises at the end of the body."""
    store = store_on()

    def work(lease: Lease) -> None:
        end(store, lease)
        assert lease.ending.wait(5)
        with pytest.raises(LeaseLost, match=reason):
            lease.check()

    with pytest.raises(LeaseLost, match=reason):
        hands.hand().body(tolerant(store), work).result(PATIENCE)


def test_at_least_once_can_be_asked_to_stop() -> None:
    """A request to stop is no silence."""
    with store_on() as store, tolerant(store) as lease:
        assert not lease.ending
        lease.ask_to_stop()
        assert lease.ending


def test_at_least_once_tells_of_a_loss() -> None:
    """The function is told of the loss, and decides for itself."""
    losses: list[str] = []
    clock = ManualClock()
    with (
        store_on(clock=clock) as store,
        tolerant(store, on_lost=lambda lease, loss: losses.append(loss.reason)),
    ):
        after(clock, store, 100)
        until(lambda: losses)
    assert losses == ["expired"]


def test_metadata_of_a_lease_that_ran_out_cannot_change(hands: Hands) -> None:
    """There is no renewal to carry it, so it is refused, whatever the semantics."""
    clock = ManualClock()
    with store_on(clock=clock) as store:
        hand = hands.hand()
        lease = hand("acquire", tolerant(store))
        after(clock, store, 100)
        with pytest.raises(LeaseLost):
            hand("update", lease, {"a": "b"}, timeout=1)
        with pytest.raises(LeaseLost):
            hand("enter", lease)


# ---- exit ----------------------------------------------------------------------------------------

EXITS = """
import atexit, sys, threading, time, logging
from leases import Lock
from stubborn import Stubborn, intrude, store_on
logging.basicConfig(format="%(message)s")
backend = Stubborn(); store = store_on(backend)
atexit.register(print, "atexit ran")
def told(lease, loss): print("told of", loss.reason)
def hang(lease, loss): time.sleep(60)
with Lock("job", store=store, ttl=1, on_lost=WORD):
    print("in the body")
    backend.down = DOWN
    if not DOWN: intrude(store, "job")
    threading.Lock().acquire() and threading.Event().wait(30)
print("the body ended")
"""


def ends(word: str, *, down: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a program whose lease is lost while its main thread is blocked."""
    code = EXITS.replace("WORD", word).replace("DOWN", str(down))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    env.pop("PYTHONUNBUFFERED", None)  # What is buffered has to be written out.
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, env=env)


@pytest.mark.parametrize("down", [True, False], ids=["expired", "superseded"])
def test_exit_ends_the_process(down: bool) -> None:
    """Exit code 70, with what was buffered and the reason in the log, and without any clean-up."""
    ended = ends('("exit", told)', down=down)
    assert ended.returncode == 70
    reason = "expired" if down else "superseded"
    assert ended.stdout.splitlines() == ["in the body", f"told of {reason}"]
    assert f'lease on "job" is lost ({reason})' in ended.stderr and "the process exits" in ended.stderr


def test_exit_waits_for_no_function_that_hangs() -> None:
    """A callback that does not return keeps the process no longer than there is time for."""
    began = time.monotonic()
    assert ends('("exit", hang)').returncode == 70
    assert time.monotonic() - began < 15


def test_exit_leaves_a_body_alone_that_has_ended() -> None:
    """The release comes first: then there is nothing to be ended any more."""
    from leases.errors import LeaseLost
    from leases.stopper import Exit

    done = threading.Event()
    stopper = Exit(5.0)
    threads: list[Callable[[], None]] = []
    stopper.stop(LeaseLost("job", "expired", 0.0, 1), done.set, threads.append)
    stopper.end()
    threads[0]()  # This process goes on.
    assert done.is_set()


# ---- the words and the colours -------------------------------------------------------------------


def test_cancel_is_for_tasks() -> None:
    """A thread cannot be cancelled: said before anything is sent."""
    backend = Stubborn()
    lock = lock_on(store_on(backend), on_lost="cancel")
    with pytest.raises(ConfigurationError, match="cancels a task"):
        lock.acquire()
    with pytest.raises(ConfigurationError, match="cancels a task"), lock:
        raise AssertionError("the body ran")
    assert backend.calls == []


def test_interrupt_is_for_the_main_thread(hands: Hands) -> None:
    """Neither another thread nor a task can be interrupted: said before anything is sent."""
    backend = Stubborn()
    lock = lock_on(store_on(backend), on_lost="interrupt")
    why = "acquisition is of another" if hands.colour == "threads" else "event loop"
    with pytest.raises(ConfigurationError, match=why):
        hands.hand()("acquire", lock)
    assert backend.calls == []


@pytest.mark.parametrize("missing", ["SIGURG", "pthread_kill"])
def test_interrupt_needs_signals(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A platform without such signals is refused at construction."""
    from leases import interrupting

    monkeypatch.delattr(signal, missing)
    monkeypatch.setattr(interrupting, "_SIGNAL", getattr(signal, "SIGURG", None))
    with pytest.raises(ConfigurationError, match=r'needs signals .*; pass "exit"'):
        Lock("job", on_lost="interrupt")


def test_words_need_a_store_only_when_they_are_used() -> None:
    """A lock with a word is made without a connection, and acquired like any other."""
    with store_on(memory()) as store:
        for word in ("interrupt", "exit", "kill"):
            with lock_on(store, on_lost=word) as lease:
                lease.check()

        async def main() -> None:
            async with lock_on(store, on_lost="cancel") as lease:
                lease.check()

        asyncio.run(main())
