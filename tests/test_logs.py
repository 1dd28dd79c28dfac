"""The log and the hooks: each thing is said once, to whoever listens, and nobody waits for them."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hands import Hands
from leases import Lock, logs
from leases.events import Endangered, Lost, Released, Renewed
from leases.hooks import Acquired, Answered, Began, NotAcquired, Relay, Subject, Told, hooks, relay
from leases.testing.clock import ManualClock
from stubborn import SHORT, Stubborn, break_, look, store_on, until

LONG = 60.0


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[..., list[str]]:
    """What the log was told so far, of one level."""
    assert relay.flush()
    caplog.clear()
    caplog.set_level(logging.DEBUG, "leases")

    def lines(level: int) -> list[str]:
        assert relay.flush()
        return [record.getMessage() for record in caplog.records if record.levelno == level]

    return lines


@pytest.fixture
def heard() -> Iterator[list[tuple[Subject, Told]]]:
    """What a listener was told so far of all that began since: what others left may go on."""
    heard: list[tuple[Subject, Told]] = []
    ours: set[Subject] = set()

    def listener(subject: Subject, told: Told) -> None:
        if isinstance(told, Began):
            ours.add(subject)
        if subject in ours:
            heard.append((subject, told))

    hooks.listen(listener)
    yield heard
    hooks.leave(listener)


# ---- the log -------------------------------------------------------------------------------------


def test_acquired_and_released(said: Callable[..., list[str]], hands: Hands) -> None:
    """At DEBUG, with the token, the store and the wait; nothing louder."""
    store = store_on()
    hand = hands.hand()
    lease = hand("acquire", Lock("job", store=store))
    hand("release", lease)
    identity = store.hub.backend.identity
    acquired, released = said(logging.DEBUG)[-2:]
    assert re.fullmatch(rf'lock "job" acquired after 0\.\d+ s: token {lease.token}, on {identity}', acquired)
    assert released == f'lock "job" released: token {lease.token}, on {identity}'
    assert said(logging.WARNING) == said(logging.INFO) == []


def test_nobody_who_reads_no_debug_pays_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where DEBUG is off, nothing is handed to the relay for a lock that is acquired and released."""
    logging.getLogger("leases").setLevel(logging.WARNING)
    posted: list[Any] = []
    monkeypatch.setattr(Relay, "post", lambda self, *args: posted.append(args))
    Lock("job", store=store_on()).acquire().release()
    logging.getLogger("leases").setLevel(logging.NOTSET)
    assert posted == []


def test_jeopardy_and_loss(said: Callable[..., list[str]]) -> None:
    """Each once, as a warning, with how long ago it was renewed and what the store said last."""
    clock, backend = ManualClock(), Stubborn()
    store = store_on(backend, clock=clock)
    lease = Lock("job", store=store, ttl=12).acquire()
    backend.down = True
    clock.advance(4)
    look(store)
    until(lambda: ("swap", "job") in [call[:2] for call in backend.calls[1:]])
    until(lambda: lease._tenure.machine.trouble)
    clock.advance(4)
    look(store)
    clock.advance(LONG)
    look(store)
    look(store)
    lines = [line for line in said(logging.WARNING) if "gives no answer" not in line]
    assert len(lines) == 2
    assert lines[0].startswith(
        'lease on "job" is in jeopardy: last renewed 8.0 s ago, lost in 1.0 s unless renewed before; token 1'
    )
    assert lines[1].startswith('lease on "job" is lost (expired): ')
    assert "last renewed 68.0 s ago, token 1, on memory:test-" in lines[1]
    assert all(line.endswith("last trouble: it is down; wait") for line in lines)


@pytest.mark.parametrize("reason", ["broken", "closed"])
def test_loss_says_why(said: Callable[..., list[str]], reason: str) -> None:
    """The reason is that of the loss, be it from the store or from this process."""
    clock = ManualClock()
    store = store_on(clock=clock)
    lease = Lock("job", store=store).acquire()
    if reason == "broken":
        break_(store, "job")
        clock.advance(6)
        look(store)
        until(lambda: lease.lost)
    else:
        store.close()
    until(lambda: any(f"is lost ({reason})" in line for line in said(logging.WARNING)))


def test_released_lease_is_no_loss(said: Callable[..., list[str]]) -> None:
    """Nothing is said of a lease that ends because its work has ended, be it closed afterwards."""
    store = store_on()
    Lock("job", store=store).acquire().release()
    store.close()
    assert said(logging.WARNING) == []


def test_lock_that_was_never_had_is_not_lost(said: Callable[..., list[str]]) -> None:
    """A claim that ran out before it was reported was nobody's, and the log says nothing of it."""
    clock = ManualClock()
    store = store_on(clock=clock)

    class Slow:
        def seal(self, lease: object) -> None:
            clock.advance(LONG if not calls else 0)
            calls.append(lease)

    calls: list[object] = []
    Lock("job", store=store, fences=[Slow()]).acquire()
    assert len(calls) == 2 and said(logging.WARNING) == []

    class Closing:
        def seal(self, lease: object) -> None:
            other.close()

    other = store_on()
    with pytest.raises(ConnectionError):
        Lock("job", store=other, fences=[Closing()]).acquire()
    assert said(logging.WARNING) == []


def test_store_that_goes_away_and_comes_back(said: Callable[..., list[str]]) -> None:
    """It is said once each, of a store and not of each lock; one answer that got lost is not worth a line."""
    clock, backend = ManualClock(), Stubborn()
    store = store_on(backend, clock=clock)
    leases = [Lock(name, store=store, ttl=12).acquire() for name in "abc"]
    backend.down = True
    clock.advance(4)
    look(store)
    until(lambda: len(backend.calls) >= 6)
    until(lambda: all(lease._tenure.machine.trouble for lease in leases))
    clock.advance(1)
    look(store)
    until(lambda: len(backend.calls) >= 9)
    assert [line for line in said(logging.WARNING) if "gives no answer" in line] == [
        f"{backend.identity} gives no answer that can be used: it is down; wait"
    ]
    backend.down = False
    clock.advance(1)
    look(store)
    until(lambda: said(logging.INFO))
    assert all(line.startswith(f"{backend.identity} answers again, after ") for line in said(logging.INFO))
    assert len(said(logging.INFO)) == 1

    backend.down = True
    lock = Lock("d", store=store)
    with pytest.raises(ConnectionError):
        lock.acquire(0)
    backend.down = False
    lock.acquire().release()
    assert len(said(logging.INFO)) == 1


def test_slow_handler_holds_nobody_up() -> None:
    """While a handler hangs, a loss is told in time and other leases are renewed."""
    gate, hung = threading.Event(), threading.Event()

    class Hanging(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            hung.set()
            gate.wait()

    handler = Hanging()
    logging.getLogger("leases").addHandler(handler)
    try:
        backend = Stubborn()
        store, other = store_on(backend), Lock("other", store=store_on(), ttl=SHORT).acquire()
        told = threading.Event()
        lease = Lock("job", store=store, ttl=SHORT, on_lost=lambda lease, loss: told.set()).acquire()
        backend.down = True
        assert told.wait(10) and lease.lost
        assert hung.wait(10)
        first = other.deadline
        until(lambda: other.deadline > first)
        other.release()
    finally:
        gate.set()
        logging.getLogger("leases").removeHandler(handler)
        assert relay.flush()


def test_silent_where_the_program_says_it_itself(said: Callable[..., list[str]]) -> None:
    """The command line tells losses in its own words, and once."""
    store = store_on()
    with logs.hushed():
        Lock("job", store=store).acquire()
        store.close()
    assert said(logging.WARNING) == []


def test_logging_is_not_imported_for_a_lock() -> None:
    """It costs more than opening a store; where nothing has been said, it is not loaded."""
    code = (
        "import sys; from leases import Lock; Lock('x').acquire().release(); print('logging' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "LEASES_URL": "memory:"},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "False\n", done.stderr


def test_last_words_are_written_at_the_end_of_the_process() -> None:
    """A loss just before the end is in the log, though another thread writes it."""
    code = (
        "from leases import connect\n"
        "store = connect('memory:')\n"
        "lease = store.lock('job').acquire()\n"
        "store.close()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert 'lease on "job" is lost (closed)' in done.stderr and done.returncode == 0


# ---- hooks ---------------------------------------------------------------------------------------


def kinds(heard: list[tuple[Subject, Told]]) -> list[str]:
    return [type(told).__name__ for _, told in heard]


def test_hears_of_an_acquisition_in_order(heard: list[tuple[Subject, Told]], hands: Hands) -> None:
    """It begins, asks the store, is acquired, asks again, and is released; all of one subject."""
    hand = hands.hand()
    lease = hand("acquire", Lock("job", store=store_on(), holder="me"))
    hand("release", lease)
    assert kinds(heard) == ["Began", "Answered", "Acquired", "Answered", "Released"]
    assert len({subject for subject, _ in heard}) == 1
    subject = heard[0][0]
    assert (subject.name, subject.holder, subject.token, subject.ended) == ("job", "me", lease.token, True)
    asked = [told for _, told in heard if isinstance(told, Answered)]
    assert [(told.aim, told.outcome) for told in asked] == [("acquire", "applied"), ("release", "applied")]
    assert all(0 <= told.seconds < 10 for told in asked)


def test_hears_of_reads_conflicts_and_refusals(heard: list[tuple[Subject, Told]]) -> None:
    """Each request is told with its aim and its outcome."""
    store = store_on()
    Lock("job", store=store).acquire()
    backend = Stubborn(inner=store.hub.backend)
    heard.clear()
    assert Lock("job", store=store_on(backend)).try_acquire() is None
    assert [(t.aim, t.outcome) for _, t in heard if isinstance(t, Answered)] == [("acquire", "conflict")]
    assert isinstance(heard[-1][1], NotAcquired) and heard[-1][1].outcome == "timed out"
    heard.clear()
    zookeeper = store_on(Stubborn("zookeeper"))
    Lock("job", store=zookeeper).acquire()
    assert next((t.aim, t.outcome) for _, t in heard if isinstance(t, Answered)) == ("read", "answered")
    inner: Any = zookeeper.hub.backend
    inner.inner.write_foreign("foreign", b"not ours")
    heard.clear()
    with pytest.raises(Exception, match="refused"):
        Lock("foreign", store=zookeeper).acquire()
    assert [(t.aim, t.outcome) for _, t in heard if isinstance(t, Answered)] == [("read", "refused")]
    assert isinstance(heard[-1][1], NotAcquired) and heard[-1][1].outcome == "failed"


def test_hears_of_one_end_only(heard: list[tuple[Subject, Told]]) -> None:
    """After a loss no release is told, and no loss twice."""
    clock = ManualClock()
    store = store_on(clock=clock)
    lease = Lock("job", store=store, ttl=12).acquire()
    clock.advance(4)
    look(store)
    until(lambda: lease.remaining > 8.9)
    clock.advance(7)
    look(store)
    clock.advance(LONG)
    look(store)
    lease.release()
    store.close()
    told = [kind for kind in kinds(heard) if kind != "Answered"]
    assert told[:3] == ["Began", "Acquired", "Renewed"] and told[-1] == "Lost" and "Endangered" in told
    assert set(told[3:-1]) <= {"Renewed", "Endangered"}  # A renewal that was late may be committed after all.


def test_interrupted_acquisition_is_over(heard: list[tuple[Subject, Told]]) -> None:
    """What was acquired and undone by Ctrl-C was released, and is not told as never acquired."""
    subject = Subject("job", "memory:", "me", 0.0)
    hooks.tell(subject, Began())
    hooks.tell(subject, Acquired(0.0, 7))
    hooks.tell(subject, NotAcquired(0.0, "called off", KeyboardInterrupt()))
    hooks.tell(subject, Released(clean=True))
    hooks.tell(subject, Renewed(1.0, 0.0))
    hooks.tell(subject, Lost("expired", 0.0))
    other = Subject("job", "memory:", "me", 0.0)
    hooks.tell(other, Began())
    hooks.tell(other, Endangered(1.0))
    hooks.tell(other, Lost("closed", 0.0))
    assert kinds(heard) == ["Began", "Acquired", "Released", "Began"]


def test_listener_that_fails_harms_nobody(
    heard: list[tuple[Subject, Told]], caplog: pytest.LogCaptureFixture
) -> None:
    """Its exception is logged; the lock is acquired, and the other listeners hear."""

    def failing(subject: Subject, told: Told) -> None:
        raise KeyError("a fault of the listener")

    hooks.listen(failing)
    hooks.listen(failing)
    try:
        lease = Lock("job", store=store_on()).acquire()
        assert lease.held
        lease.release()
    finally:
        hooks.leave(failing)
    assert "a fault of the listener" in caplog.text
    assert kinds(heard) == ["Began", "Answered", "Acquired", "Answered", "Released"]


# ---- the relay -----------------------------------------------------------------------------------


def test_relay_calls_in_order_and_survives_what_it_calls(caplog: pytest.LogCaptureFixture) -> None:
    """One after another, in one thread that is not the caller's; a fault is logged."""
    mine, seen = Relay(), list[object]()
    mine.post(seen.append, 1)
    mine.post(lambda: 1 / 0)
    mine.post(lambda: seen.append(threading.current_thread().name))
    assert mine.flush()
    assert seen == [1, "leases-relay"] and "ZeroDivisionError" in caplog.text


def test_relay_that_hangs_drops_at_last_and_delays_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is handed to it while it hangs is bounded; waiting for it is, too."""
    monkeypatch.setattr(Relay, "MOST", 10)
    mine, gate, seen = Relay(), threading.Event(), list[int]()
    mine.post(gate.wait)
    for number in range(30):
        mine.post(seen.append, number)
    assert not mine.flush(0.01)
    gate.set()
    until(lambda: mine.flush())
    assert 9 <= len(seen) <= 11 and seen == list(range(len(seen)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_relay_works_in_the_child_of_a_fork() -> None:
    """The parent's thread did not come along; another is started there."""
    assert relay.flush()
    relay.post(lambda: None)
    child = os.fork()
    if child == 0:
        done = threading.Event()
        relay.post(done.set)
        os._exit(0 if done.wait(10) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
