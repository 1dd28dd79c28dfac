"""Kubernetes for the tests: an API server on an etcd of its own, without nodes, controllers or a scheduler.

start(folder)                          # .url; it speaks TLS, and decides by RBAC who may do what
server.namespace("mine")               # a URL of a new namespace, as somebody who may do everything
server.user("ann")                     # a kubeconfig of somebody who may do nothing yet; see grant
server.account("mine", "robot")        # a service account, and token() for it
"""

from __future__ import annotations

import json
import secrets
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlsplit

import pytest

from servers import get
from servers.certificates import Authority
from servers.process import HOST, Node, Ports, Server

REQUEST_S: Final = 10.0
_RBAC: Final = "rbac.authorization.k8s.io"


class KubernetesServer(Server):
    """An API server, and what a test does with it past the backend.

    Attributes:
        admin: the token that may do everything.
        authority: of the server's certificate; the server takes clients that it has signed, too.
    """

    admin: str
    authority: Authority

    @property
    def address(self) -> str:
        """`https://127.0.0.1:PORT`."""
        return f"https://{self.nodes[-1].ports.at('https')}"

    @property
    def url(self) -> str:
        """A leases URL of the namespace `default`, as somebody who may do everything."""
        return self.url_of("default", self.folder / "admin.kubeconfig")

    def url_of(self, namespace: str, kubeconfig: Path) -> str:
        """A leases URL."""
        return f"kubernetes://{namespace}?kubeconfig={quote(str(kubeconfig))}"

    def namespace(self, name: str) -> str:
        """A leases URL of a namespace that is there from now on, as somebody who may do everything."""
        self.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        return self.url_of(name, self.folder / "admin.kubeconfig")

    def user(self, name: str) -> Path:
        """A kubeconfig of a user, by certificate."""
        pair = self.authority.client(name)
        return self.kubeconfig(name, {"client-certificate": str(pair.cert), "client-key": str(pair.key)})

    def account(self, namespace: str, name: str) -> str:
        """Make a service account anew; tokens of an earlier one are void from then on. Its user's name."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts"
        try:
            self.request("DELETE", f"{path}/{name}")
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
        self.request("POST", path, {"metadata": {"name": name}})
        return f"system:serviceaccount:{namespace}:{name}"

    def token(self, namespace: str, name: str) -> str:
        """A token of a service account."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        return str(self.request("POST", path, {"spec": {"expirationSeconds": 3600}})["status"]["token"])

    def kubeconfig(
        self, name: str, user: Mapping[str, object], *, cluster: Mapping[str, object] | None = None
    ) -> Path:
        """A kubeconfig with these credentials; JSON is YAML, too."""
        path = self.folder / f"{name}.kubeconfig"
        of = {"server": self.address, "certificate-authority": str(self.authority.ca)} | dict(cluster or {})
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": name}}],
            "clusters": [{"name": "test", "cluster": of}],
            "users": [{"name": name, "user": dict(user)}],
        }
        path.touch(0o600)
        path.write_text(json.dumps(content))
        return path

    def grant(self, namespace: str, user: str, verbs: Iterable[str], *, names: Iterable[str] = ()) -> None:
        """Let a user do this with Leases, and nothing else of what an earlier grant said."""
        create = [verb for verb in verbs if verb == "create"]
        others = [verb for verb in verbs if verb != "create"]
        rule = {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"]}
        rules = (
            [rule | {"verbs": others} | ({"resourceNames": list(names)} if names else {})] if others else []
        )
        rules += [rule | {"verbs": create}] if create else []
        slug = user.replace(":", "-")
        role = {"metadata": {"name": slug}, "rules": rules}
        binding = {
            "metadata": {"name": slug},
            "roleRef": {"apiGroup": _RBAC, "kind": "Role", "name": slug},
            "subjects": [{"apiGroup": _RBAC, "kind": "User", "name": user}],
        }
        for kind, whole in (("roles", role), ("rolebindings", binding)):
            path = f"/apis/{_RBAC}/v1/namespaces/{namespace}/{kind}"
            try:
                self.request("POST", path, whole)
            except urllib.error.HTTPError as error:
                if error.code != 409:
                    raise
                self.request("PUT", f"{path}/{slug}", whole)

    def request(self, method: str, path: str, body: object = None) -> Any:
        """One request as somebody who may do everything; what it answers, parsed.

        Raises:
            urllib.error.HTTPError: any status that is no success.
        """
        context = ssl.create_default_context(cafile=str(self.authority.ca))
        headers = {"Authorization": f"Bearer {self.admin}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, headers, method=method)
        opener = urllib.request.build_opener(
            urllib.request.HTTPSHandler(context=context), urllib.request.ProxyHandler({})
        )
        with opener.open(request, timeout=REQUEST_S) as response:
            answer = response.read()
        return json.loads(answer) if answer.startswith((b"{", b"[")) else answer


def start(folder: Path) -> KubernetesServer:
    """Start an API server on ports of its own, and wait until it is ready.

    Raises:
        servers.get.Missing: there is no API server here, or no etcd.
    """
    program = get.program("kubernetes")
    server = KubernetesServer([], program.version, folder)
    server.authority, server.admin = Authority(folder / "certificates"), secrets.token_urlsafe(24)
    etcd, ports = Ports("client", "peer"), Ports("https")
    home = folder / "kube-apiserver"
    home.mkdir(parents=True)
    tokens = home / "tokens.csv"
    tokens.touch(0o600)
    tokens.write_text(f'{server.admin},admin,admin,"system:masters"\n')
    server.nodes += [
        _etcd(folder / "etcd", etcd),
        Node(
            "kube-apiserver",
            [str(program.path), *_flags(server, etcd.at("client"), ports, tokens)],
            folder=home,
            ports=ports,
            ready=lambda _: server.request("GET", "/readyz") == b"ok" and bool(server.request("GET", _LAST)),
            environment={"GOMAXPROCS": "2", "NO_PROXY": HOST},
            limit_s=180.0,  # three seconds of two processors, on a machine that may be busy
            image=program.image,
        ),
    ]
    server.up()
    server.kubeconfig("admin", {"token": server.admin})
    return server


# What is the last to be there: without it a request is forbidden that should not be.
_LAST: Final = f"/apis/{_RBAC}/v1/clusterroles/system:basic-user"


def _etcd(home: Path, ports: Ports) -> Node:
    """Its store: alone, in the clear, and of the newest version whatever that of the API server is."""
    program = get.program("etcd", "new")
    client, peer = (f"http://{ports.at(use)}" for use in ("client", "peer"))
    command = [
        str(program.path),
        "--name=alone",
        "--data-dir=data",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=alone={peer}",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]

    def ready(_: Node) -> bool:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
            f"{client}/health", timeout=2
        ) as answer:
            return b"true" in answer.read()

    return Node(
        "etcd",
        command,
        folder=home,
        ports=ports,
        ready=ready,
        environment={"GOMAXPROCS": "2"},
        image=program.image,
    )


def _flags(server: KubernetesServer, etcd: str, ports: Ports, tokens: Path) -> list[str]:
    pair = server.authority.server()
    return [
        f"--etcd-servers=http://{etcd}",
        f"--bind-address={HOST}",
        f"--advertise-address={HOST}",
        f"--secure-port={ports['https']}",
        f"--tls-cert-file={pair.cert}",
        f"--tls-private-key-file={pair.key}",
        f"--client-ca-file={server.authority.ca}",
        f"--token-auth-file={tokens}",
        "--authorization-mode=RBAC",
        f"--service-account-key-file={pair.cert}",
        f"--service-account-signing-key-file={pair.key}",
        "--service-account-issuer=https://leases.test",
        "--service-cluster-ip-range=10.0.0.0/24",
        "--endpoint-reconciler-type=none",
        "--cert-dir=certificates",
        "--v=0",
    ]


def own(server: object) -> KubernetesServer:
    """The server if the tests have started it; skips what needs more of a server than a namespace."""
    if not isinstance(server, KubernetesServer):
        pytest.skip("needs an API server of the tests' own: unset LEASES_TEST_KUBERNETES")
    return server


def namespace(url: str, name: str) -> str:
    """The URL of a new namespace of a cluster that somebody else runs, by the credentials of its URL."""
    from leases_backends.kubernetes import connect

    backend = connect(url)
    try:
        answer = backend._site.client.call(
            "POST", "/api/v1/namespaces", REQUEST_S, {"metadata": {"name": name}}
        )
        assert answer.status in (201, 409), answer
    finally:
        backend.close()
    options = dict(parse_qsl(urlsplit(url).query))
    query = "&".join(f"{key}={quote(value, safe='/:,')}" for key, value in options.items())
    return f"kubernetes://{name}{'?' if query else ''}{query}"
