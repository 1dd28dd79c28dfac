"""The etcd store passes the suite, on one member and on a cluster of three."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest

from leases.contract import Backend
from leases.testing.suite import BackendSuite
from leases_backends import _etcd_messages as messages
from leases_backends._etcd_wire import Rpc
from leases_backends.etcd import connect as connect_etcd
from servers.etcd import EtcdServer
from servers.fixtures import Shared, launched
from servers.process import frozen

PUT = Rpc("/etcdserverpb.KV/Put", messages.PutRequest, messages.RangeResponse)


class EtcdSuite(BackendSuite):
    """Records are reached past the backend with plain puts."""

    @pytest.fixture
    def url(self) -> str:
        raise NotImplementedError

    @pytest.fixture
    def connect(self, url: str) -> Callable[[], Backend]:
        return lambda: connect_etcd(url)

    @pytest.fixture
    def write_foreign(self, url: str) -> Iterator[Callable[[str, bytes], None]]:
        with contextlib.closing(connect_etcd(url)) as backend:

            def write(name: str, body: bytes) -> None:
                put = messages.PutRequest(key=backend.prefix + name.encode(), value=body)
                backend._client.call(PUT, put, 10.0)

            yield write


class TestEtcd(EtcdSuite):
    @pytest.fixture
    def url(self, etcd: Shared) -> str:
        return f"{etcd.url}/suite-{secrets.token_hex(4)}"


@pytest.fixture(scope="module")
def cluster() -> Iterator[EtcdServer]:
    with launched("etcd", nodes=3, passwords={"root": "r", "app": "geheim"}) as server:
        yield server


class TestClusterOfThree(EtcdSuite):
    """As a user who may write under one prefix, and who is asked for a password."""

    @pytest.fixture
    def url(self, cluster: EtcdServer) -> str:
        return cluster.url_of(user=f"app:{self.password}", path=f"app/suite-{secrets.token_hex(4)}")

    password = "geheim"

    @pytest.fixture
    def secret(self) -> str:
        return self.password

    @pytest.fixture
    def cut_off(self, cluster: EtcdServer) -> Callable[[], AbstractContextManager[object]]:
        """Most of the members stand still: whichever is asked cannot have anything written."""
        return lambda: frozen(cluster.nodes[1:])
