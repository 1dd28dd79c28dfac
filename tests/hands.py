"""Hands that do what people type, one thing after another: a thread of its own, or a task of its own.

A test is written once and runs in both colours: a hand of threads calls `acquire`, a hand of asyncio awaits
`acquire_async`, and what belongs to one thread or task stays in one hand. All tasks share one loop.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final

from leases import Lease, Lock

PATIENCE: Final = 20.0  # seconds after which a test has hung


class Hand(ABC):
    """One thread or one task."""

    @abstractmethod
    def begin(self, verb: str, thing: Any, *args: Any, **options: Any) -> Future[Any]:
        """Let it call a method, or await its twin, once it is through with what it was told before."""

    @abstractmethod
    def body(self, lock: Lock, work: Callable[[Lease], Any]) -> Future[Any]:
        """Let it run a `with` body, or an `async with` body, around a function that does not wait long."""

    @abstractmethod
    def wait(self, lease: Lease, timeout: float | None = None) -> Future[bool]:
        """Let it wait for the loss of a lease."""

    def __call__(self, verb: str, thing: Any, *args: Any, **options: Any) -> Any:
        """Let it call a method, or await its twin, and give back the result."""
        return self.begin(verb, thing, *args, **options).result(PATIENCE)

    def enter(self, lock: Lock) -> Lease:
        """Enter a body and stay in it."""
        lease: Lease = self("enter", lock)
        return lease

    def leave(self, lock: Lock, error: BaseException | None = None) -> None:
        """Leave the body, by an error or without."""
        self("exit", lock, None if error is None else type(error), error, None)


class Hands(ABC):
    """Where hands of one colour come from."""

    colour: str

    @abstractmethod
    def hand(self) -> Hand: ...

    @abstractmethod
    def close(self) -> None:
        """Let them go; none may be at work."""


class Threads(Hands):
    colour = "threads"

    def __init__(self) -> None:
        self._made: list[_Thread] = []

    def hand(self) -> Hand:
        hand = _Thread()
        self._made.append(hand)
        return hand

    def close(self) -> None:
        for hand in self._made:
            hand.jobs.put(None)
        for hand in self._made:
            hand.thread.join(PATIENCE)
            assert not hand.thread.is_alive(), "a hand is still at work"


class Tasks(Hands):
    colour = "asyncio"

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self._made: list[_Task] = []

    def hand(self) -> Hand:
        hand = asyncio.run_coroutine_threadsafe(_make(self.loop), self.loop).result(PATIENCE)
        self._made.append(hand)
        return hand

    def close(self) -> None:
        async def stop() -> None:
            for hand in self._made:
                hand.jobs.put_nowait(None)
            if self._made:
                _, late = await asyncio.wait([hand.task for hand in self._made], timeout=PATIENCE)
                assert not late, "a hand is still at work"
            await self.loop.shutdown_default_executor()

        asyncio.run_coroutine_threadsafe(stop(), self.loop).result(PATIENCE)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(PATIENCE)
        self.loop.close()


class _Thread(Hand):
    def __init__(self) -> None:
        self.jobs: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while (job := self.jobs.get()) is not None:
            future, call = job
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(error)
            del job, future, call

    def _put(self, call: Callable[[], Any]) -> Future[Any]:
        future: Future[Any] = Future()
        self.jobs.put((future, call))
        return future

    def begin(self, verb: str, thing: Any, *args: Any, **options: Any) -> Future[Any]:
        name = f"__{verb}__" if verb in ("enter", "exit") else verb
        return self._put(lambda: getattr(thing, name)(*args, **options))

    def body(self, lock: Lock, work: Callable[[Lease], Any]) -> Future[Any]:
        def run() -> Any:
            with lock as lease:
                return work(lease)

        return self._put(run)

    def wait(self, lease: Lease, timeout: float | None = None) -> Future[bool]:
        return self._put(lambda: lease.lost.wait(timeout))


class _Task(Hand):
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.jobs: asyncio.Queue[tuple[Future[Any], Callable[[], Any]] | None] = asyncio.Queue()
        self.task = loop.create_task(self._run())

    async def _run(self) -> None:
        while (job := await self.jobs.get()) is not None:
            future, call = job
            try:
                future.set_result(await call())
            except BaseException as error:
                future.set_exception(error)
            del job, future, call

    def _put(self, call: Callable[[], Any]) -> Future[Any]:
        future: Future[Any] = Future()
        self.loop.call_soon_threadsafe(self.jobs.put_nowait, (future, call))
        return future

    def begin(self, verb: str, thing: Any, *args: Any, **options: Any) -> Future[Any]:
        name = f"__a{verb}__" if verb in ("enter", "exit") else f"{verb}_async"
        return self._put(lambda: getattr(thing, name)(*args, **options))

    def body(self, lock: Lock, work: Callable[[Lease], Any]) -> Future[Any]:
        async def run() -> Any:
            async with lock as lease:
                return work(lease)

        return self._put(run)

    def wait(self, lease: Lease, timeout: float | None = None) -> Future[bool]:
        return self._put(lambda: lease.lost.wait_async(timeout))


async def _make(loop: asyncio.AbstractEventLoop) -> _Task:
    return _Task(loop)


__all__ = ["PATIENCE", "Hand", "Hands", "Tasks", "Threads"]
