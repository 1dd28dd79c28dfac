"""Functions under `leader_only` of both colours, and who calls them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import pytest

from hands import PATIENCE
from leases import Store, leader_only, leadership
from stubborn import Stubborn, another_process, store_on


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


@pytest.fixture(name="colour", params=[False, True], ids=["function", "coroutine"])
def colour_(request: pytest.FixtureRequest, store: Store) -> Iterator[Colour]:
    made = Colour(awaits=request.param)
    yield made
    made.close()


@pytest.fixture(name="plain")
def plain_(store: Store) -> Iterator[Colour]:
    made = Colour(awaits=False)
    yield made
    made.close()


@pytest.fixture(name="store")
def store_() -> Iterator[Store]:
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


def leadership_of(led: Any) -> leadership.Leadership:
    """What is behind a function."""
    found: leadership.Leadership = led.elector._leadership
    return found


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
