"""The Kubernetes store passes the suite on a real API server."""

from __future__ import annotations

import contextlib
import secrets
import urllib.error
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager

import pytest

from leases.contract import Backend
from leases.testing.suite import BackendSuite
from leases_backends._kubernetes_answers import VERBS
from leases_backends._kubernetes_names import object_name
from leases_backends.kubernetes import connect as connect_kubernetes
from servers.kubernetes import KubernetesServer

PATH = "/apis/coordination.k8s.io/v1/namespaces/{}/leases"


@pytest.fixture(scope="module")
def url(kubernetes: KubernetesServer) -> str:
    return kubernetes.namespace(f"suite-{secrets.token_hex(4)}")


class TestKubernetes(BackendSuite):
    """Records are reached past the backend over HTTP, as somebody who may do everything."""

    @pytest.fixture
    def connect(self, url: str) -> Callable[[], Backend]:
        return lambda: connect_kubernetes(url)

    @pytest.fixture
    def write_foreign(self, kubernetes: KubernetesServer, url: str) -> Callable[[str, bytes], None]:
        path = PATH.format(url.partition("//")[2].partition("?")[0])

        def write(name: str, body: bytes) -> None:
            try:
                text = body.decode()
            except UnicodeDecodeError:
                pytest.skip("an annotation is text")
            called = object_name(name)
            annotations = {"annotations": {"leases/record": text}}
            try:
                whole = kubernetes.request("GET", f"{path}/{called}")
            except urllib.error.HTTPError as error:
                if error.code != 404:
                    raise
                whole = {"metadata": {"name": called} | annotations}
                kubernetes.request("POST", path, whole)
                return
            whole["metadata"]["annotations"] |= annotations["annotations"]
            kubernetes.request("PUT", f"{path}/{called}", whole)

        return write

    @pytest.fixture
    def cut_off(self, kubernetes: KubernetesServer) -> Callable[[], AbstractContextManager[object]] | None:
        if not isinstance(kubernetes, KubernetesServer):
            return None  # It is not ours to stop.
        node = kubernetes.nodes[-1]

        @contextlib.contextmanager
        def frozen() -> Generator[None]:
            node.freeze()
            try:
                yield
            finally:
                node.thaw()

        return frozen

    @pytest.fixture
    def secret(self, kubernetes: KubernetesServer) -> str:
        return kubernetes.admin


class TestKubernetesByRole(TestKubernetes):
    """The same as somebody with a client certificate, and a Role of five verbs and nothing else."""

    @pytest.fixture
    def connect(self, kubernetes: KubernetesServer, url: str) -> Callable[[], Backend]:
        namespace = url.partition("//")[2].partition("?")[0]
        user = f"member-of-{namespace}"
        kubernetes.grant(namespace, user, VERBS)
        limited = kubernetes.url_of(namespace, kubernetes.user(user))
        return lambda: connect_kubernetes(limited)
