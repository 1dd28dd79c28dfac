"""Consul for the tests: one server or a cluster, in the clear or with TLS, with or without ACLs.

start(folder)                          # one server; .url
start(folder, nodes=3)                 # a cluster; .url names them all, .urls() each
start(folder, tls=Authority(...))      # HTTPS for clients that show a certificate
start(folder, acl=True)                # nobody may do anything without a token; see ConsulServer.grant
"""

from __future__ import annotations

import json
import secrets
import ssl
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from typing import Any, Final

from servers import get
from servers.certificates import Authority, Pair
from servers.process import HOST, Node, Ports, Server

FOLDER: Final = "leases-test"
REQUEST_S: Final = 10.0


class ConsulServer(Server):
    """Consul servers, and what a test does with them past the backend.

    Attributes:
        root: the token that may do everything; empty without ACLs.
        ca, client: the authority of its certificates, and a certificate that it takes; None without TLS.
    """

    root: str = ""
    ca: Path | None = None
    client: Pair | None = None

    @property
    def url(self) -> str:
        """A leases URL that names every server."""
        return self.url_of(*self.nodes)

    def url_of(self, *nodes: Node, folder: str = FOLDER, token: str | None = None) -> str:
        """A leases URL of these servers; without a token it is the one that may do everything."""
        token = self.root if token is None else token
        who = f":{token}@" if token else ""
        hosts = ",".join(node.ports.at("client") for node in nodes)
        if self.ca is None or self.client is None:
            return f"consul://{who}{hosts}/{folder}"
        files = f"ca={self.ca}&cert={self.client.cert}&key={self.client.key}"
        return f"consuls://{who}{hosts}/{folder}?{files}"

    def request(
        self, method: str, path: str, body: object = None, *, token: str | None = None, node: int = 0
    ) -> Any:
        """One request to the HTTP API, with the token that may do everything; what it answers, parsed.

        Raises:
            urllib.error.HTTPError: any status but 200.
        """
        return _request(self, self.nodes[node], method, path, body, self.root if token is None else token)

    def put(self, key: str, value: bytes) -> None:
        """Write a key as any other program could."""
        assert self.request("PUT", f"kv/{key}", value) is True

    def grant(self, rules: str) -> str:
        """A new token that may do what these rules say."""
        policy = f"policy-{secrets.token_hex(4)}"
        self.request("PUT", "acl/policy", {"Name": policy, "Rules": rules})
        made = self.request("PUT", "acl/token", {"Policies": [{"Name": policy}]})
        return str(made["SecretID"])

    def revoke(self, token: str) -> None:
        """Delete a token."""
        accessor = self.request("GET", "acl/token/self", token=token)["AccessorID"]
        self.request("DELETE", f"acl/token/{accessor}")

    def leader(self) -> Node:
        """The server that leads now."""
        address = str(self.request("GET", "status/leader"))
        return next(node for node in self.nodes if node.ports.at("peer") == address)


def start(folder: Path, *, nodes: int = 1, tls: Authority | None = None, acl: bool = False) -> ConsulServer:
    """Start servers on ports of their own, and wait until they have a leader.

    Raises:
        servers.get.Missing: there is no Consul here.
    """
    program = get.program("consul")
    ports = [Ports("client", "peer", "gossip") for _ in range(nodes)]
    server = ConsulServer([], program.version, folder)
    server.root = str(uuid.uuid4()) if acl else ""
    if tls is not None:
        server.ca, server.client = tls.ca, tls.client("leases")
    for number, mine in enumerate(ports, 1):
        home = folder / f"consul-{number}"
        home.mkdir(parents=True)
        config = (
            _config(f"consul-{number}", mine, ports, secure=tls is not None) | _acl(server.root) | _tls(tls)
        )
        (home / "consul.json").write_text(json.dumps(config))
        command = [str(program.path), "agent", "-config-file=consul.json"]
        server.nodes.append(
            Node(
                f"consul-{number}",
                command,
                folder=home,
                ports=mine,
                ready=lambda node: _leads(server, node),
                image=program.image,
                # Of the tests' own environment nothing is to reach a server, nor what asks it.
                environment={"CONSUL_HTTP_TOKEN": "", "GOMAXPROCS": "2"},
            )
        )
    return server.up()


def _config(name: str, mine: Ports, everybody: list[Ports], *, secure: bool) -> dict[str, Any]:
    """A server that begins at once, and that talks to nobody but its cluster."""
    return {
        "server": True,
        "node_name": name,
        "datacenter": "dc1",
        "data_dir": "data",
        "bootstrap_expect": len(everybody),
        "retry_join": [ports.at("gossip") for ports in everybody if ports is not mine],
        "retry_interval": "200ms",
        "bind_addr": HOST,
        "client_addr": HOST,
        "ports": {
            "https" if secure else "http": mine["client"],
            "http" if secure else "https": -1,
            "server": mine["peer"],
            "serf_lan": mine["gossip"],
            **dict.fromkeys(("dns", "grpc", "grpc_tls", "serf_wan"), -1),
        },
        # Elections within a second, and a write with a leader that just died is answered as soon.
        "performance": {"raft_multiplier": 1},
        "limits": {"http_max_conns_per_client": 2000},
        "leave_on_terminate": False,
        "disable_update_check": True,
        "disable_host_node_id": True,
        "connect": {"enabled": False},
        "ui_config": {"enabled": False},
        "log_level": "info",
    }


def _acl(root: str) -> dict[str, Any]:
    if not root:
        return {}
    return {
        "acl": {
            "enabled": True,
            "default_policy": "deny",
            "tokens": {"initial_management": root, "agent": root},
            # A token that was deleted is to be refused at once, by every server.
            "token_ttl": "0s",
            "policy_ttl": "0s",
        }
    }


def _tls(authority: Authority | None) -> dict[str, Any]:
    """HTTPS for clients with a certificate alone."""
    if authority is None:
        return {}
    pair = authority.server()
    files = {"ca_file": str(authority.ca), "cert_file": str(pair.cert), "key_file": str(pair.key)}
    return {"tls": {"https": {**files, "verify_incoming": True}}}


def _leads(server: ConsulServer, node: Node) -> bool:
    """Whether a server knows a leader, and may be written to."""
    try:
        if not _request(server, node, "GET", "status/leader", None, server.root):
            return False
        return bool(_request(server, node, "PUT", "txn", _QUESTION, server.root))
    except urllib.error.HTTPError:
        return False


_QUESTION: Final = [{"KV": {"Verb": "check-not-exists", "Key": "is-it-ready"}}]


def _request(server: ConsulServer, node: Node, method: str, path: str, body: object, token: str) -> Any:
    scheme, context = "http", None
    if server.ca is not None and server.client is not None:
        scheme, context = "https", ssl.create_default_context(cafile=str(server.ca))
        context.load_cert_chain(server.client.cert, server.client.key)
    data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{scheme}://{node.ports.at('client')}/v1/{path}", data, method=method)
    if token:
        request.add_header("X-Consul-Token", token)
    with urllib.request.urlopen(request, timeout=REQUEST_S, context=context) as answer:
        content = answer.read()
    return json.loads(content) if content else None
