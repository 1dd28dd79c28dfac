"""What an `Elector` meets at its borders: stores that are away, options that cannot work, forks."""

from __future__ import annotations

import asyncio
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from candidates import Electorate, electorate, stands_by
from leases import ConfigurationError, Elector, RecordRefused, StoreDenied, StoreUnavailable
from stubborn import PATIENCE, SHORT, Stubborn, another_process, break_, fresh_url, store_on, until

__all__ = ["electorate"]  # a fixture

TTL = 15.0


# ---- the store -----------------------------------------------------------------------------------


def test_a_store_that_is_away_is_waited_for(electorate: Electorate) -> None:
    """No answer ends no campaign: when the store is back, it leads."""
    backend = Stubborn()
    backend.down = True
    one = electorate.candidate(store_on(backend), ttl=SHORT).run()
    until(lambda: len(backend.calls) >= 3)
    assert not one.future.done()
    backend.down = False
    one.leads()


def test_a_store_that_cannot_be_connected_is_tried_again(
    electorate: Electorate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same where even connecting fails; it is logged once."""
    from leases import lock

    store, fails = store_on(), [3]
    real = lock.Lock._connect

    def connect(self: Any) -> Any:
        if fails[0]:
            fails[0] -= 1
            raise StoreUnavailable("nobody there; start it")
        return real(self)

    one = electorate.candidate(store, ttl=TTL)
    one.elector._lock._hub = None
    monkeypatch.setattr(lock.Lock, "_connect", connect)
    one.run().leads()
    assert fails == [0]


@pytest.mark.parametrize(
    "error", [StoreDenied("not you; log in"), RecordRefused("job", "it is foreign", b"?")]
)
def test_a_refusal_ends_run(electorate: Electorate, error: Exception) -> None:
    """What waiting will not mend comes out of run."""
    backend = Stubborn()

    def refuse(kind: str, name: str) -> None:
        raise error

    backend.before = refuse
    one = electorate.candidate(store_on(backend), ttl=TTL)
    with pytest.raises(type(error)):
        one.run().future.result(PATIENCE)
    assert isinstance(one.elector.error, type(error))


def test_what_ends_a_started_elector_is_not_silent(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody is there to catch it: it is logged, kept, and fails the health of the elector."""
    backend = Stubborn()

    def refuse(kind: str, name: str) -> None:
        raise StoreDenied("not you; log in")

    backend.before = refuse
    elector = store_on(backend).elector("job", ttl=TTL).start()
    until(lambda: elector.error is not None)
    assert isinstance(elector.error, StoreDenied) and elector.stop()
    assert any("takes part no more" in reason for reason in elector.health(grace=10.0).reasons)
    until(lambda: any("takes part no more" in record.getMessage() for record in caplog.records))


def test_a_store_that_is_closed_ends_run(electorate: Electorate) -> None:
    """A connected store that its owner closes is not waited for, neither by a leader nor by who stands by."""
    store = store_on()
    two_store = another_process(store)
    one = electorate.candidate(store, ttl=TTL).run().leads()
    two = electorate.candidate(two_store, ttl=TTL).run()
    until(lambda: stands_by(two_store))
    for candidate, its_store in ((two, two_store), (one, store)):
        its_store.close()
        with pytest.raises(StoreUnavailable, match="was closed"):
            candidate.future.result(PATIENCE)
    assert one.heard("lost") == ["closed"]


def test_a_ttl_that_is_too_short_ends_run(electorate: Electorate) -> None:
    """What the store cannot keep is refused by run, where it is connected only then."""
    one = electorate.candidate(store_on(), ttl=TTL)
    one.elector = Elector("job", store=fresh_url("etcd"), ttl=0.2)
    with pytest.raises(ConfigurationError, match="ttl"):
        one.run().future.result(PATIENCE)


def test_a_broken_lock_ends_the_tenure(electorate: Electorate) -> None:
    """Whose lock was broken by an operator is told so, and leads again when the record is over."""
    store = store_on()
    one = electorate.candidate(store, ttl=SHORT).run().leads()
    break_(store, "job")
    until(lambda: len(one.works) == 2)
    assert one.heard("lost") == ["broken"]


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"metadata": {"leases.priority": "1"}}, "reserved"),
        ({"priority": True}, "integer"),
        ({"priority": 1.5}, "integer"),
        ({"on_elected": 1}, "cannot be called"),
        ({"on_lost": "explode"}, "on_lost"),
        ({"on_lost": ("explode", print)}, "on_lost"),
        ({"renew_while": "yes"}, "cannot be called"),
        ({"patience": -1}, "patience=-1 is not a number of seconds; pass 0 or more"),
        ({"holder": ""}, "holder"),
        ({"ttl": 0.01}, "ttl"),
        ({"store": "nowhere:"}, "nowhere"),
        ({"name": "x" * 253, "priority": 1}, "252 bytes"),
        ({"semantics": "at-least-once", "on_lost": "exit"}, "at-least-once"),
        ({"semantics": "at-least-once", "on_lost": "cancel"}, "at-least-once"),
        ({"semantics": "at-least-once", "on_lost": ("cancel", print)}, "at-least-once"),
    ],
)
def test_bad_options_are_refused_when_it_is_made(options: dict[str, Any], says: str) -> None:
    """Nothing waits for an election to be found wrong."""
    make: Any = Elector
    with pytest.raises(ConfigurationError, match=says):
        make(**{"name": "job", **options})


def test_work_of_the_wrong_colour_is_refused() -> None:
    """run takes functions, run_async coroutine functions; words that need the other colour are refused."""
    elector = store_on().elector("job")

    async def coroutine(lease: Any) -> None: ...

    with pytest.raises(ConfigurationError, match="run_async"):
        elector.run(coroutine)
    with pytest.raises(ConfigurationError, match="cancels a task"):
        store_on().elector("job", on_lost="cancel").run(print)
    with pytest.raises(ConfigurationError, match="call run in the main thread"):
        store_on().elector("job", on_lost="interrupt").start()
    for option in "renew_while", "on_elected", "on_lost":
        options: Any = {option: coroutine}
        with pytest.raises(ConfigurationError, match="is a coroutine function"):
            store_on().elector("job", **options).run(print)
        with pytest.raises(ConfigurationError, match="is a coroutine function"):
            store_on().elector("job", **options).start()

    async def main() -> None:
        with pytest.raises(ConfigurationError, match="not a coroutine function"):
            await elector.run_async(print)  # type: ignore[arg-type]

    asyncio.run(main())


def test_an_elector_stays_in_its_process() -> None:
    """It cannot be pickled, and says so."""
    with pytest.raises(TypeError, match="belongs to this process"):
        pickle.dumps(store_on().elector("job"))


FORKS = """
import os, signal, sys
from leases import Elector, LeaseLost
elector = Elector("job", store=sys.argv[1], ttl=5.0)
other = Elector("other", store=sys.argv[1], ttl=5.0).start()
def say(*words): print(*words, flush=True)
def work(lease):
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        elector.stop(0)
    else:
        signal.alarm(20)
        say("child", elector.is_leader, elector.lease, lease.lost.reason, other.is_leader)
try:
    elector.run(work)
except LeaseLost as loss:
    say("child's run", loss.reason)
    third = Elector("third", store=sys.argv[1], ttl=5.0)
    third.run(lambda lease: (say("child leads", third.is_leader), third.stop()))
    say("child stops", other.start().stop(), elector.stop())
    os._exit(0)
say("parent", elector.error, other.stop())
"""


def test_after_a_fork_the_child_owns_nothing(tmp_path: Path) -> None:
    """In a child no elector leads, the work it is in is over, and it can take part for itself."""
    done = subprocess.run(
        [sys.executable, "-c", FORKS, f"sqlite:{tmp_path / 'leases.db'}"],
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    assert done.stdout.splitlines() == [
        "child False None forked False",
        "child's run forked",
        "child leads True",
        "child stops True True",
        "parent None True",
    ]
