"""The Kubernetes store passes the suite on a real API server."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from typing import Any

import pytest

from leases.contract import Backend
from leases.testing._probes import TIMEOUT
from leases.testing.suite import BackendSuite
from leases_backends._kubernetes_answers import VERBS
from leases_backends._kubernetes_names import object_name
from leases_backends.kubernetes import connect as connect_kubernetes
from servers.given import Given
from servers.kubernetes import KubernetesServer, own
from servers.process import frozen


@pytest.fixture(scope="module")
def url(kubernetes: KubernetesServer | Given) -> str:
    return kubernetes.namespace(f"suite-{secrets.token_hex(4)}")


class TestKubernetes(BackendSuite):
    """Records are reached past the backend over HTTP, as somebody who may do everything."""

    @pytest.fixture
    def connect(self, url: str) -> Callable[[], Backend]:
        return lambda: connect_kubernetes(url)

    @pytest.fixture
    def write_foreign(self, url: str) -> Iterator[Callable[[str, bytes], None]]:
        with closing(connect_kubernetes(url)) as store:
            path, call = store._site.path, store._site.client.call

            def write(name: str, body: bytes) -> None:
                try:
                    text = body.decode()
                except UnicodeDecodeError:
                    pytest.skip("an annotation is text")
                called = object_name(name)
                found = call("GET", f"{path}/{called}", TIMEOUT)
                there = found.status == 200
                whole: Any = found.body if there else {"metadata": {"name": called, "annotations": {}}}
                whole["metadata"]["annotations"]["leases/record"] = text
                where = f"{path}/{called}" if there else path
                done = call("PUT" if there else "POST", where, TIMEOUT, whole)
                assert done.status in (200, 201), done

            yield write

    @pytest.fixture
    def cut_off(
        self, kubernetes: KubernetesServer | Given
    ) -> Callable[[], AbstractContextManager[object]] | None:
        if not isinstance(kubernetes, KubernetesServer):
            return None  # It is not ours to stop.
        nodes = kubernetes.nodes[-1:]
        return lambda: frozen(nodes)

    @pytest.fixture
    def secret(self, kubernetes: KubernetesServer | Given) -> str | None:
        return kubernetes.admin if isinstance(kubernetes, KubernetesServer) else None


class TestKubernetesByRole(TestKubernetes):
    """The same as somebody with a client certificate, and a Role of five verbs and nothing else."""

    @pytest.fixture
    def connect(self, kubernetes: object, url: str) -> Callable[[], Backend]:
        server = own(kubernetes)
        namespace = url.partition("//")[2].partition("?")[0]
        user = f"member-of-{namespace}"
        server.grant(namespace, user, VERBS)
        limited = server.url_of(namespace, server.user(user))
        return lambda: connect_kubernetes(limited)
