"""The memory store passes the suite by the rules of every kind of store."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from leases.contract import Backend
from leases.testing.cells import Kind
from leases.testing.suite import BackendSuite
from leases_backends import memory


class MemorySuite(BackendSuite):
    """The suite on a store of this process, which a child does not share."""

    kind: Kind
    shared = False

    @pytest.fixture
    def url(self, request: pytest.FixtureRequest) -> str:
        return f"memory:{request.node.nodeid}?kind={self.kind.value}".replace("%", "%25")

    @pytest.fixture
    def connect(self, url: str) -> Callable[[], Backend]:
        return lambda: memory.connect(url)

    @pytest.fixture
    def write_foreign(self, url: str) -> Callable[[str, bytes], None]:
        return memory.connect(url).write_foreign


class TestMemory(MemorySuite):
    kind = Kind.MEMORY


class TestAsSqlite(MemorySuite):
    kind = Kind.SQLITE


class TestAsEtcd(MemorySuite):
    kind = Kind.ETCD


class TestAsConsul(MemorySuite):
    kind = Kind.CONSUL


class TestAsZooKeeper(MemorySuite):
    kind = Kind.ZOOKEEPER


class TestAsKubernetes(MemorySuite):
    kind = Kind.KUBERNETES


class TestUnordered(MemorySuite):
    kind = Kind.UNORDERED
