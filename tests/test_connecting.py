"""Connecting takes of the time that an acquisition is allowed, in both colours."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any

import pytest

from hands import PATIENCE, Hands
from leases import (
    AcquireTimeout,
    ConfigurationError,
    Elector,
    Lock,
    MultiLock,
    NotCurrent,
    Semaphore,
    StoreUnavailable,
    hub,
)
from leases.contract import Slot
from leases.fencing import GuardedKey, Token, Validator
from leases.testing.clock import ManualClock
from stubborn import Stubborn, another_process, fresh_url, store_on, until

ALLOWED, LEFT = 0.5, 0.1

Connecting = Callable[[], object]
Connect = Callable[[Connecting], str]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    """By which connecting is timed, and what comes after it."""
    clock = ManualClock()
    monkeypatch.setattr(hub, "system_clock", clock)
    monkeypatch.setitem(hub.Hub.__init__.__kwdefaults__ or {}, "clock", clock)
    return clock


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Stubborn:
    """What is there once it is connected."""
    return Stubborn()


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch, backend: Stubborn) -> Connect:
    """A URL whose store is connected when a function returns."""
    connecting = dict[str, Connecting]()

    def opened(url: str) -> Stubborn:
        connecting[url]()
        return backend

    def url(wait: Connecting) -> str:
        connecting[made := fresh_url()] = wait
        return made

    monkeypatch.setattr(hub, "open_backend", opened)
    return url


def lock(url: str) -> Any:
    return Lock("job", store=url)


def semaphore(url: str) -> Any:
    return Semaphore("pool", 1, store=url)


def two_locks(url: str) -> Any:
    return MultiLock("job", "other", store=url)


every_kind = pytest.mark.parametrize("make", [lock, semaphore, two_locks])


@every_kind
def test_what_connecting_took_is_off_what_is_left(
    make: Callable[[str], Any], hands: Hands, clock: ManualClock, backend: Stubborn, url: Connect
) -> None:
    """Who waits for another holder gives up when all is over; the error tells the seconds of all."""
    others = another_process(store_on(backend, clock=clock))
    holders = [Lock("job", store=others).acquire(), Semaphore("pool", 1, store=others).acquire()]
    mine = url(lambda: clock.advance(ALLOWED - LEFT))
    waiting = hands.hand().begin("acquire", make(mine), ALLOWED)
    until(lambda: waiting.done() or any(member.blocked for member in _members(mine)))
    clock.advance(LEFT)
    with pytest.raises(AcquireTimeout) as raised:
        waiting.result(PATIENCE)
    assert raised.value.timeout == ALLOWED and raised.value.holder == holders[0].holder


def _members(url: str) -> list[Any]:
    found = hub._by_url.get(url)
    return [] if found is None else list(found.members)


@every_kind
def test_connecting_that_takes_all_is_no_other_holder(
    make: Callable[[str], Any], hands: Hands, clock: ManualClock, backend: Stubborn, url: Connect
) -> None:
    """Nothing is sent to the store any more; the next one has it connected."""
    wanted = make(url(lambda: clock.advance(ALLOWED)))
    with pytest.raises(StoreUnavailable, match=r"took all of the 0\.5 s"):
        hands.hand()("acquire", wanted, ALLOWED)
    assert backend.calls == []
    hands.hand()("acquire", wanted, ALLOWED).release()


@every_kind
def test_who_does_not_wait_is_not_bounded_by_nothing(
    make: Callable[[str], Any], hands: Hands, clock: ManualClock, url: Connect
) -> None:
    """A try, and whoever has for ever, connects and asks, however long it takes."""
    for timeout in (0, None):
        wanted = make(url(lambda: clock.advance(ALLOWED)))
        hands.hand()("acquire", wanted, timeout).release()


@every_kind
def test_nobody_waits_for_connecting_that_hangs(
    make: Callable[[str], Any], hands: Hands, url: Connect
) -> None:
    """It goes on, once for all who want the store, and holds up no other; the next one has it connected."""
    reached, times = threading.Event(), list[str]()

    def hang() -> None:
        times.append("once")
        reached.wait()

    mine = url(hang)
    wanted = make(mine)
    for again in (wanted, wanted, make(mine)):
        with pytest.raises(StoreUnavailable, match="connecting"):
            hands.hand()("acquire", again, LEFT)
    hands.hand()("acquire", make(url(lambda: None)), None).release()
    assert not reached.is_set()
    reached.set()
    hands.hand()("acquire", wanted, PATIENCE).release()
    assert times == ["once"]


@every_kind
def test_what_is_wrong_is_told_as_it_was(make: Callable[[str], Any], hands: Hands, url: Connect) -> None:
    """The error is that of the store, and the next one connects anew."""
    wrong = [ConfigurationError("mend it")]

    def connecting() -> None:
        if wrong:
            raise wrong.pop()

    wanted = make(url(connecting))
    with pytest.raises(ConfigurationError, match="mend it"):
        hands.hand()("acquire", wanted, PATIENCE)
    hands.hand()("acquire", wanted, PATIENCE).release()


def valid(validator: Validator, *, awaited: bool) -> bool:
    """Its answer to a token that nobody has, in one colour or the other."""
    return asyncio.run(validator.valid_async("me", 1)) if awaited else validator.valid("me", 1)


@pytest.mark.parametrize("awaited", [False, True])
def test_a_validator_counts_in_the_same_way(
    awaited: bool, clock: ManualClock, backend: Stubborn, url: Connect
) -> None:
    """The read has what is left; where nothing is, the store is not asked."""
    allowed, read = list[float](), backend.inner.read

    def reading(name: str, timeout: float) -> Slot:
        allowed.append(timeout)
        return read(name, timeout)

    backend.inner.read = reading  # type: ignore[method-assign]
    assert not valid(
        Validator(url(lambda: clock.advance(ALLOWED - LEFT)), "job", timeout=ALLOWED), awaited=awaited
    )
    late = Validator(url(lambda: clock.advance(ALLOWED)), "job", timeout=ALLOWED)
    with pytest.raises(StoreUnavailable, match="connecting"):
        valid(late, awaited=awaited)
    assert allowed == pytest.approx([LEFT])


@pytest.mark.parametrize("awaited", [False, True])
def test_nobody_waits_for_a_validator_that_hangs_connecting(awaited: bool, url: Connect) -> None:
    """It is as with a lock."""
    reached = threading.Event()
    validator = Validator(url(reached.wait), "job", timeout=LEFT)
    with pytest.raises(StoreUnavailable, match="connecting"):
        valid(validator, awaited=awaited)
    assert not reached.is_set()
    reached.set()
    until(lambda: not valid(validator, awaited=awaited))


def test_a_store_that_is_connected_needs_no_thread(
    hands: Hands, url: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does a lock that is made anew for each acquisition."""
    mine = url(lambda: None)
    hands.hand()("acquire", lock(mine), ALLOWED).release()

    def start(opening: hub.Opening) -> None:
        raise AssertionError("a thread was started")

    monkeypatch.setattr(hub.Opening, "_start", start)
    hands.hand()("acquire", lock(mine), ALLOWED).release()


def who_leads(url: str, seconds: float) -> object:
    return Elector("job", store=url).leader(seconds)


def value_of(url: str, seconds: float) -> object:
    return GuardedKey("job", "position", store=url, timeout=seconds).read()


def written(url: str, seconds: float) -> None:
    GuardedKey("job", "position", store=url, timeout=seconds).write(Token("job", 1, "me"), b"value")


every_look = pytest.mark.parametrize("look", [who_leads, value_of, written])


@every_look
def test_a_look_counts_in_the_same_way(
    look: Callable[[str, float], object], clock: ManualClock, backend: Stubborn, url: Connect
) -> None:
    """The store has what is left; where nothing is, it is not asked."""
    allowed = list[float]()
    backend.inner.read = heard(backend.inner.read, allowed)  # type: ignore[method-assign]
    backend.inner.read_guarded = heard(backend.inner.read_guarded, allowed)  # type: ignore[method-assign]
    with contextlib.suppress(NotCurrent):
        look(url(lambda: clock.advance(ALLOWED - LEFT)), ALLOWED)
    assert allowed == pytest.approx([LEFT])
    with pytest.raises(StoreUnavailable, match="connecting"):
        look(url(lambda: clock.advance(ALLOWED)), ALLOWED)
    assert len(allowed) == 1


def heard(asks: Callable[..., Any], allowed: list[float]) -> Callable[..., Any]:
    """The same, whose last argument is kept: the seconds."""

    def asked(*args: Any) -> Any:
        allowed.append(args[-1])
        return asks(*args)

    return asked


@every_look
def test_nobody_waits_for_a_look_that_hangs_connecting(
    look: Callable[[str, float], object], url: Connect
) -> None:
    """It is as with a lock."""
    reached = threading.Event()
    with pytest.raises(StoreUnavailable, match="connecting"):
        look(url(reached.wait), LEFT)
    reached.set()
