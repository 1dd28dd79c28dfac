"""The Consul store passes the suite, on one server and on a cluster of three."""

from __future__ import annotations

import contextlib
import http.client
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest

from leases.contract import Backend
from leases.testing.suite import BackendSuite
from leases_backends import consul as backends
from leases_backends._consul_kv import spelt
from leases_backends._url import address
from servers.consul import ConsulServer
from servers.fixtures import Shared, launched
from servers.process import frozen


class ConsulSuite(BackendSuite):
    """Records are reached past the backend with plain requests."""

    @pytest.fixture
    def url(self) -> str:
        raise NotImplementedError

    @pytest.fixture
    def connect(self, url: str) -> Callable[[], Backend]:
        return lambda: backends.connect(url)

    @pytest.fixture
    def write_foreign(self, url: str) -> Callable[[str, bytes], None]:
        where = address(url, port=8500, known=backends.OPTIONS)

        def write(name: str, body: bytes) -> None:
            connection = http.client.HTTPConnection(*where.hosts[0], timeout=10.0)
            with contextlib.closing(connection):
                connection.request("PUT", f"/v1/kv/{where.path or backends.FOLDER}/{spelt(name)}", body)
                assert connection.getresponse().read().strip() == b"true"

        return write


class TestConsul(ConsulSuite):
    @pytest.fixture
    def url(self, consul: Shared) -> str:
        return consul.url


@pytest.fixture(scope="module")
def cluster() -> Iterator[ConsulServer]:
    with launched("consul", nodes=3) as server:
        yield server


class TestClusterOfThree(ConsulSuite):
    @pytest.fixture
    def url(self, cluster: ConsulServer) -> str:
        return cluster.url

    @pytest.fixture
    def cut_off(self, cluster: ConsulServer) -> Callable[[], AbstractContextManager[object]]:
        """Most of the servers stand still: the one that is asked cannot have anything written."""
        return lambda: frozen(cluster.nodes[1:])
