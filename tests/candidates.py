"""Candidates of both colours: electors at work in a thread, or in a task, of their own.

The work of a candidate waits until it is to stop, unless it is told otherwise; what is called back is kept.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

import pytest

from leases import Elector, Lease, Store
from stubborn import PATIENCE, until


class Candidate:
    """An elector, and what became of it.

    Attributes:
        told: what was called back, in order: ("elected", token), ("jeopardy", token), ("lost", reason),
            ("leader", holder or None).
        works: the lease of every beginning of the work.
        working: how many works go on.
        future: what `run` came to.
    """

    def __init__(self, electorate: Electorate, store: Store, name: str, **options: Any) -> None:
        self.told: list[tuple[str, Any]] = []
        self.works: list[Lease] = []
        self.working = 0
        self.until: Callable[[Lease], Any] | None = None  # instead of waiting until it is to stop
        self.go = threading.Event()  # ends work that does not stop
        self._electorate = electorate
        defaults = {
            "on_elected": lambda lease: self.told.append(("elected", lease.token)),
            "on_jeopardy": lambda lease: self.told.append(("jeopardy", lease.token)),
            "on_lost": lambda lease, loss: self.told.append(("lost", loss.reason)),
        }
        self.elector: Elector = store.elector(name, **{**defaults, **options})
        self.future: Future[None] = Future()

    # ---- its hands -------------------------------------------------------------------------------

    def run(self) -> Candidate:
        """Let it take part."""
        self.future = self._electorate.begin(self)
        return self

    def __call__(self, verb: str, *args: Any, **options: Any) -> Any:
        """Call a method of its elector, or await its twin."""
        return self._electorate.call(self.elector, verb, *args, **options).result(PATIENCE)

    def leads(self) -> Candidate:
        """Wait until it is at work."""
        until(lambda: self.working and self.elector.is_leader)
        return self

    @property
    def lease(self) -> Lease:
        """Of the last work that began."""
        return self.works[-1]

    def heard(self, kind: str) -> list[Any]:
        """What was told of one kind."""
        return [what for told, what in self.told if told == kind]

    def refuses(self) -> Candidate:
        """Let its work go on, whatever it is told, until `go` is set."""
        self.until = self._electorate.refusal(self)
        return self

    # ---- its work --------------------------------------------------------------------------------

    def work(self, lease: Lease) -> None:
        self.works.append(lease)
        self.working += 1
        try:
            if self.until is not None:
                self.until(lease)
            else:
                lease.ending.wait()
        finally:
            self.working -= 1

    async def work_async(self, lease: Lease) -> None:
        self.works.append(lease)
        self.working += 1
        try:
            if self.until is not None:
                result = self.until(lease)
                if result is not None:
                    await result
            else:
                await asyncio.Event().wait()  # until it is cancelled
        finally:
            self.working -= 1


class Electorate:
    """Candidates of one colour; as a context manager, until they have stopped."""

    colour = "threads"

    def __init__(self) -> None:
        self._made: list[Candidate] = []

    def candidate(self, store: Store, name: str = "job", **options: Any) -> Candidate:
        """One more candidate, which takes no part yet."""
        made = Candidate(self, store, name, **options)
        self._made.append(made)
        return made

    def begin(self, candidate: Candidate) -> Future[None]:
        return in_thread(lambda: candidate.elector.run(candidate.work))

    def call(self, elector: Elector, verb: str, *args: Any, **options: Any) -> Future[Any]:
        return in_thread(lambda: getattr(elector, verb)(*args, **options))

    def refusal(self, candidate: Candidate) -> Callable[[Lease], Any]:
        return lambda lease: candidate.go.wait(PATIENCE)

    def close(self) -> None:
        """All are told to stop, and most do."""
        for candidate in self._made:
            candidate.until = None
            candidate.go.set()
            candidate.elector.stop(0)
        for candidate in self._made:
            assert candidate.elector.stop(PATIENCE), "a candidate still takes part"

    def __enter__(self) -> Electorate:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Tasks(Electorate):
    colour = "asyncio"

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def begin(self, candidate: Candidate) -> Future[None]:
        return asyncio.run_coroutine_threadsafe(candidate.elector.run_async(candidate.work_async), self.loop)

    def refusal(self, candidate: Candidate) -> Callable[[Lease], Any]:
        async def refuse(lease: Lease) -> None:
            while not candidate.go.is_set():
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(0.005)

        return refuse

    def call(self, elector: Elector, verb: str, *args: Any, **options: Any) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(
            getattr(elector, f"{verb}_async")(*args, **options), self.loop
        )

    def close(self) -> None:
        super().close()
        asyncio.run_coroutine_threadsafe(self.loop.shutdown_default_executor(), self.loop).result(PATIENCE)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(PATIENCE)
        self.loop.close()


def stands_by(store: Store) -> bool:
    """Whether somebody of this process waits for what another holds."""
    hub: Any = store.hub
    return any(member.blocked for member in hub.members)


def in_thread(call: Callable[[], Any]) -> Future[Any]:
    """Call it in a thread of its own."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


@pytest.fixture(params=[Electorate, Tasks], ids=["threads", "asyncio"])
def electorate(request: pytest.FixtureRequest) -> Iterator[Electorate]:
    """Candidates of one colour, then of the other."""
    made: Electorate = request.param()
    yield made
    made.close()


@pytest.fixture
def threads() -> Iterator[Electorate]:
    """Candidates in threads."""
    made = Electorate()
    yield made
    made.close()
