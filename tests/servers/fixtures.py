"""The servers as tests ask for them: one of each kind for all tests, or one of a test's own.

    def test_something(etcd: Shared) -> None: ...            # etcd.url

    def test_with_a_cluster() -> None:
        with launched("etcd", nodes=3) as cluster: ...       # an EtcdServer of servers/etcd.py

A server that cannot be had skips the test, with what to do about it; in CI it fails.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from servers import get
from servers.given import given


class Shared(Protocol):
    """What every shared server has, wherever it runs; Kubernetes also makes namespaces, see its launcher."""

    @property
    def url(self) -> str:
        """A leases URL of it."""
        ...

    @property
    def version(self) -> str:
        """Its version; empty for one that somebody else runs."""
        ...

    def close(self) -> None: ...


@pytest.fixture(scope="session")
def etcd() -> Iterator[Shared]:
    """One etcd for all tests."""
    with _shared("etcd") as server:
        yield server


@pytest.fixture(scope="session")
def zookeeper() -> Iterator[Shared]:
    """One ZooKeeper for all tests."""
    with _shared("zookeeper") as server:
        yield server


@pytest.fixture(scope="session")
def consul() -> Iterator[Shared]:
    """One Consul for all tests."""
    with _shared("consul") as server:
        yield server


@pytest.fixture(scope="session")
def kubernetes() -> Iterator[Shared]:
    """One API server, on an etcd of its own, for all tests."""
    with _shared("kubernetes") as server:
        yield server


@pytest.fixture(scope="session")
def postgres() -> Iterator[Shared]:
    """One PostgreSQL for all tests; its URL is libpq's."""
    with _shared("postgres") as server:
        yield server


@contextlib.contextmanager
def launched(server: str, **options: Any) -> Generator[Any]:
    """A server of a test's own, started by its launcher with these options, as a process; ended after.

    The result is what `servers/SERVER.py` starts; it is not said here, so that no test imports the
    client libraries of servers that it does not ask for.
    """
    with tempfile.TemporaryDirectory(prefix=f"leases-{server}-", ignore_cleanup_errors=True) as folder:
        with _or_absent():
            start: Callable[..., Any] = importlib.import_module(f"servers.{server}").start
            started = start(Path(folder), **options)
        with contextlib.closing(started):
            yield started


@contextlib.contextmanager
def _shared(server: str) -> Generator[Shared]:
    """The one that the environment names, or one of our own."""
    with _or_absent():
        found: Shared | None = given(server)
    if found is None:
        with launched(server) as own:
            yield own
    else:
        with contextlib.closing(found):
            yield found


@contextlib.contextmanager
def _or_absent() -> Generator[None]:
    """A server that cannot be had is the machine's fault, except in CI, where it must be there."""
    try:
        yield
    except get.Missing as missing:
        if os.environ.get("CI") == "true":
            pytest.fail(str(missing), pytrace=False)
        pytest.skip(str(missing))
