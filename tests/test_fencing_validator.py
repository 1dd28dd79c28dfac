"""`Validator`: holder and token as the lock's store shows them, and no yes when in doubt."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from leases import ConfigurationError, Lease, StoreError, StoreUnavailable
from leases.contract import Slot
from leases.fencing import ForeignToken, Level, MalformedToken, NotCurrent, StaleToken, Token, Validator
from leases.testing.clock import ManualClock
from stores import Site, every_store
from stubborn import Stubborn, another_process, store_on

HOLDER = "shard-1"


@pytest.fixture(params=["blocking", "awaited"])
def ask(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """`valid` in one colour, then in the other."""

    def ask(validator: Validator, holder: str, token: int) -> bool:
        if request.param == "blocking":
            return validator.valid(holder, token)
        return asyncio.run(validator.valid_async(holder, token))

    return ask


def why(validator: Validator, token: Token) -> str:
    """The refusal."""
    with pytest.raises(NotCurrent) as caught:
        validator.check(token)
    return caught.value.why


@every_store
def test_holder_and_token_must_be_those_that_hold(site: Site, ask: Callable[..., bool]) -> None:
    """From the acquisition on, through renewals, until the release; a name alone is worth nothing."""
    with site.store() as store:
        validator = Validator(site.another(store), "job")
        assert not ask(validator, HOLDER, 1)
        lock = store.lock("job", holder=HOLDER)
        lease = lock.acquire()
        early = lease.token
        assert ask(validator, HOLDER, early)
        lease.update({"renewed": "yes"})  # where the token is the acquiring write's, it is now written in
        assert ask(validator, HOLDER, early)
        assert not ask(validator, "shard-2", early)
        assert not ask(validator, HOLDER, early + 1)
        lease.release()
        assert not ask(validator, HOLDER, early)
        with lock as again:
            assert ask(validator, HOLDER, again.token)
            assert not ask(validator, HOLDER, early)


@every_store
def test_what_was_broken_is_not_held(site: Site) -> None:
    """The record keeps others out for its ttl, and its token and ttl are the old ones."""
    with site.store() as store, site.store() as operator:
        validator = Validator(operator, "job")
        lease = store.lock("job").acquire()
        given = validator.check(lease)
        operator.break_lock("job", if_token=lease.token)
        assert why(validator, given) == "it was broken"
        status = operator.status("job")
        assert status.holder and status.token
        assert not validator.valid(status.holder, status.token)


def test_the_error_says_what_stands_there(site: Site) -> None:
    """The facts are attributes, and the next step is in the text."""
    with site.store() as store:
        validator = Validator(store, "job")
        assert validator.level is Level.ASKED
        assert why(validator, Token("job", 1, HOLDER)) == "nobody holds it"
        with store.lock("job", holder="shard-2") as lease:
            assert why(validator, Token("job", lease.token + 1, HOLDER)).endswith(
                f"{lease.token}, of shard-2"
            )
            assert why(validator, Token("job", lease.token, HOLDER)) == "it is held by shard-2"
            with pytest.raises(StaleToken) as caught:
                validator.check(Token("job", lease.token - 1, HOLDER))
            assert caught.value.highest == lease.token
            with pytest.raises(ForeignToken):
                validator.check(Token("other", lease.token, HOLDER))
            with pytest.raises(MalformedToken, match="does not say who holds"):
                validator.check(Token("job", lease.token))


def test_when_in_doubt_it_refuses(ask: Callable[..., bool]) -> None:
    """A store that is away, a store that was closed: nobody knows, and nothing passes."""
    site_backend = Stubborn()
    from leases.hub import Hub
    from leases.store import Store

    with Store(Hub(site_backend, "x")) as store:
        validator = Validator(store, "job")
        lease = store.lock("job").acquire()
        assert ask(validator, lease.holder, lease.token)
        site_backend.down = True
        with pytest.raises(StoreUnavailable):
            ask(validator, lease.holder, lease.token)
        site_backend.down = False
        assert ask(validator, lease.holder, lease.token)
        store.hub.refuse(RuntimeError("it went back"))
        with pytest.raises(StoreError, match="went back"):
            ask(validator, lease.holder, lease.token)
    with pytest.raises(StoreUnavailable, match="closed"):
        ask(validator, lease.holder, lease.token)


# ---- time ----------------------------------------------------------------------------------------


def held(site: Site, clock: ManualClock, *, local: bool = True, ttl: float = 10.0) -> tuple[Any, Lease]:
    """A store, and a lease in it whose holder is dead: nothing renews it."""
    backend = site.backend()
    backend.traits = replace(backend.traits, local=local, least_ttl=0.1)
    store = site.store(backend, clock=clock)
    lease = store.lock("job", holder=HOLDER, ttl=ttl).acquire()
    lease.renew_until(0)
    return store, lease


def test_on_one_host_a_record_ends_with_its_ttl(site: Site) -> None:
    """To a validator that has never seen it, too."""
    clock = ManualClock()
    store, lease = held(site, clock)
    given = Token.of(lease)
    clock.advance(9.9)
    Validator(store, "job").check(given)
    clock.advance(0.2)
    assert "not been renewed" in why(Validator(store, "job"), given)


def test_elsewhere_it_ends_a_ttl_after_it_was_seen(site: Site) -> None:
    """No two clocks are compared: who looks for the first time cannot know; who has looked, knows."""
    clock = ManualClock()
    store, lease = held(site, clock, local=False)
    given, watched = Token.of(lease), Validator(store, "job")
    clock.advance(5)
    watched.check(given)
    clock.advance(9.9)
    watched.check(given)
    clock.advance(0.2)
    assert "not been renewed" in why(watched, given)
    Validator(store, "job").check(given)


def test_a_renewal_begins_the_wait_anew(site: Site) -> None:
    """Another version is another sighting."""
    clock = ManualClock()
    store, lease = held(site, clock, local=False)
    given, validator = Token.of(lease), Validator(store, "job")
    validator.check(given)
    lease.renew_until(float("inf"))
    clock.advance(6)
    lease.update({"alive": "yes"})
    lease.renew_until(0)
    validator.check(given)
    clock.advance(9)
    validator.check(given)
    clock.advance(2)
    assert "not been renewed" in why(validator, given)


def test_a_host_that_slept_counts_its_sleep(site: Site) -> None:
    """The clock of a holder is asked, not that of a waiter."""
    clock = ManualClock()
    store, lease = held(site, clock, local=False)
    validator = Validator(store, "job")
    validator.check(lease)
    given = Token.of(lease)
    clock.suspend(11)
    assert "not been renewed" in why(validator, given)


def test_without_a_cache_every_call_asks(site: Site) -> None:
    """A holder that was succeeded is refused at once."""
    clock = ManualClock()
    store, lease = held(site, clock)
    validator = Validator(store, "job")
    validator.check(lease)
    given = Token.of(lease)
    lease.release()
    assert why(validator, given) == "nobody holds it"


def test_a_yes_is_used_again_for_as_long_as_was_said(site: Site) -> None:
    """Counted from before the store was asked, so that a slow answer is not fresh; a no is never kept."""
    clock = ManualClock()
    backend = site.stubborn()
    store = site.store(backend, clock=clock)
    lease = store.lock("job", holder=HOLDER).acquire()
    lease.renew_until(0)
    given, validator = Token.of(lease), Validator(store, "job", cache=2.0)

    def slow(kind: str, outcome: Any) -> Any:
        clock.advance(0.5)
        return outcome

    backend.after = slow
    validator.check(given)
    backend.after = lambda kind, outcome: outcome
    lease.release()
    clock.advance(1.4)
    validator.check(given)  # 1.9 s after it was asked
    clock.advance(0.1)
    assert why(validator, given) == "nobody holds it"
    assert why(validator, given) == "nobody holds it"
    with store.lock("job", holder=HOLDER) as again:
        validator.check(again)


def test_a_yes_does_not_outlast_the_record(site: Site) -> None:
    """However long it may be kept."""
    clock = ManualClock()
    store, lease = held(site, clock)
    given, validator = Token.of(lease), Validator(store, "job", cache=100)
    validator.check(given)
    clock.advance(10.1)
    assert "not been renewed" in why(validator, given)


def test_another_yes_ends_the_one_before(site: Site) -> None:
    """Once a later tenure was seen, the earlier one is over, in the cache as well."""
    store = site.store()
    lock = store.lock("job", holder=HOLDER)
    validator = Validator(store, "job", cache=100)
    first = lock.acquire()
    validator.check(first)
    early = Token.of(first)
    first.release()
    with lock as second:
        validator.check(second)
        with pytest.raises(StaleToken):
            validator.check(early)


def test_a_yes_ends_when_it_is_seen_to_be_over(site: Site) -> None:
    """By an answer to another question, too."""
    store = site.store()
    validator = Validator(store, "job", cache=100)
    lease = store.lock("job", holder=HOLDER).acquire()
    given = validator.check(lease)
    lease.release()
    validator.check(given)
    assert not validator.valid("shard-2", given.number + 1)
    assert why(validator, given) == "nobody holds it"


def test_a_cached_yes_is_for_the_same_holder_and_token(site: Site) -> None:
    """Another holder's name, or another number, is another question."""
    with site.store() as store, store.lock("job", holder=HOLDER) as lease:
        validator = Validator(store, "job", cache=100)
        assert validator.valid(HOLDER, lease.token)
        assert not validator.valid("shard-2", lease.token)
        assert not validator.valid(HOLDER, lease.token + 1)


# ---- stores that answer from the past ------------------------------------------------------------


def test_old_news_is_no_news(site: Site) -> None:
    """Who was once seen to be over is not let in again by a server that has not heard of it."""
    backend = site.stubborn()
    store = site.store(backend)
    lock = store.lock("job", holder=HOLDER)
    validator = Validator(store, "job")
    first = lock.acquire()
    early, old = Token.of(first), backend.read("job", 1.0)
    validator.check(early)
    first.release()
    assert why(validator, early) == "nobody holds it"
    backend.after = lambda kind, outcome: old if kind == "read" else outcome
    assert why(validator, early) == "nobody holds it"
    backend.after = lambda kind, outcome: outcome
    with lock as second:
        validator.check(second)
        backend.after = lambda kind, outcome: old if kind == "read" else outcome
        validator.check(second)
        fresh = Validator(store, "job")
        fresh.check(early)  # it has seen nothing else, and cannot know
        backend.after = lambda kind, outcome: outcome
        fresh.check(second)


def test_an_answer_that_was_long_on_its_way_changes_nothing(site: Site) -> None:
    """It comes after one that was asked later, and is older news."""
    backend = site.stubborn()
    store = site.store(backend)
    lock = store.lock("job", holder=HOLDER)
    first = lock.acquire()
    early = Token.of(first)
    validator = Validator(store, "job", cache=100)
    asked, go = threading.Event(), threading.Event()
    failed = list[Exception]()

    def holds_up(kind: str, outcome: Slot) -> Slot:
        if kind == "read" and threading.current_thread() is slow:
            asked.set()
            assert go.wait(20)
        return outcome

    def check() -> None:
        try:
            validator.check(early)
        except (StaleToken, NotCurrent) as error:
            failed.append(error)

    backend.after = holds_up
    slow = threading.Thread(target=check)
    slow.start()
    assert asked.wait(20)
    first.release()
    with lock as second:
        validator.check(second)
        go.set()
        slow.join(20)
        assert failed
        with pytest.raises(StaleToken):
            validator.check(early)


# ---- the rest ------------------------------------------------------------------------------------


def test_it_finds_its_store_as_a_lock_does(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a URL, by the environment, or connected; by a URL it connects when it is first asked."""
    with site.store() as store, store.lock("job", holder=HOLDER) as lease:
        assert Validator(site.url, "job").valid(HOLDER, lease.token)
        monkeypatch.setenv("LEASES_URL", site.url)
        assert Validator(None, "job").valid(HOLDER, lease.token)
        assert "job" in repr(Validator(store, "job"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_it_goes_on_in_a_forked_child(tmp_path: Any) -> None:
    """Also where another thread of the parent was in the middle of something."""
    from leases import connect

    with connect(f"sqlite:{tmp_path / 'leases.db'}") as store, store.lock("job", holder=HOLDER) as lease:
        validator, token = Validator(f"sqlite:{tmp_path / 'leases.db'}", "job"), lease.token
        assert validator.valid(HOLDER, token)
        busy, go = threading.Event(), threading.Event()

        def is_busy() -> None:
            with validator._mutex:
                busy.set()
                go.wait(20)

        other = threading.Thread(target=is_busy)
        other.start()
        assert busy.wait(20)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:  # pragma: no cover
            code = 1
            try:
                signal.alarm(20)
                code = 7 if validator.valid(HOLDER, token) else 2
            finally:
                os._exit(code)
        go.set()
        other.join(20)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


WRONG: list[dict[str, Any]] = [
    *({"name": ""}, {"store": 5}, {"store": "nothing:"}),
    *({"cache": -1}, {"cache": None}, {"cache": "1"}, {"timeout": 0}, {"timeout": None}),
]


@pytest.mark.parametrize("options", WRONG, ids=str)
def test_what_cannot_work_is_refused_at_once(options: dict[str, Any]) -> None:
    """Before anything is asked."""
    with pytest.raises(ConfigurationError):
        Validator(**(dict[str, Any](store=None, name="job") | options))


def test_what_no_lease_can_have_is_refused(site: Site) -> None:
    """A holder without a name, a token below nought."""
    validator = Validator(site.store(), "job")
    for holder, token in (("", 1), ("x", -1)):
        with pytest.raises(ConfigurationError):
            validator.valid(holder, token)


def test_an_answer_that_comes_late_is_no_yes() -> None:
    """Where answers have no order, it may be older than one that showed a later tenure."""
    backend = Stubborn("unordered")
    store = store_on(backend)
    first = store.lock("job", holder=HOLDER).acquire()
    validator, early = Validator(store, "job"), Token.of(first)

    def overtaken(kind: str, outcome: Any) -> Any:
        backend.after = lambda kind, outcome: outcome
        first.release()
        second = another_process(store).lock("job").acquire()
        assert why(validator, early) == f"it is held by token {second.token}, of {second.holder}"
        second.release()
        return outcome

    backend.after = overtaken
    with pytest.raises(StaleToken):
        validator.check(early)
