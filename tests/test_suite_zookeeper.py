"""ZooKeeper passes the suite: one server, and an ensemble of three."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Final

import pytest

from leases.contract import Backend
from leases.testing.suite import BackendSuite
from leases_backends.zookeeper import connect as connect_zookeeper
from servers.fixtures import Shared, launched
from servers.process import frozen
from zookeeper_tree import tree_of

_count: Final = itertools.count()
_run: Final = secrets.token_hex(3)


class Zookeeper(BackendSuite):
    """Records are reached past the backend with the client library alone."""

    @pytest.fixture
    def server(self) -> Any:
        """Override: what runs."""
        raise NotImplementedError

    @pytest.fixture
    def url(self, server: Any) -> str:
        return f"{server.url}/suite-{_run}-{next(_count)}"

    @pytest.fixture
    def connect(self, url: str) -> Callable[[], Backend]:
        # Two spellings of one place are two sessions, as two processes have them.
        spellings = itertools.cycle((url, f"{url}?acl=open"))
        return lambda: connect_zookeeper(next(spellings))

    @pytest.fixture
    def write_foreign(self, url: str) -> Callable[[str, bytes], None]:
        def write(name: str, body: bytes) -> None:
            with tree_of(url) as tree:
                tree.write(name, body)

        return write

    @pytest.fixture
    def cut_off(self, server: Any) -> Callable[[], AbstractContextManager[object]] | None:
        nodes = getattr(server, "nodes", ())
        return (lambda: frozen(nodes)) if nodes else None


class TestZookeeperAlone(Zookeeper):
    """One server."""

    @pytest.fixture
    def server(self, zookeeper: Shared) -> Shared:
        return zookeeper


@pytest.fixture(scope="module")
def ensemble() -> Iterator[Any]:
    with launched("zookeeper", nodes=3) as servers:
        yield servers


class TestZookeeperEnsemble(Zookeeper):
    """Three servers; connections are spread over them, so that what one has written is read from another."""

    @pytest.fixture
    def server(self, ensemble: Any) -> Any:
        return ensemble
