"""etcd for the tests: one member or a cluster, with TLS, users and certificates where a test wants them."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import grpc  # type: ignore[import-untyped] # pyright: ignore[reportMissingTypeStubs] # It ships without types.

from servers import get
from servers.certificates import Authority
from servers.process import HOST, Node, Ports, Server

ROOT: Final = "root"
_READ_WRITE: Final = 2
_HANDLED: Final = re.compile(r"grpc_server_started_total\{([^}]*)\} (\S+)")


class EtcdServer(Server):
    """One member or a cluster. Users other than `root` may read and write what is under their own names.

    Attributes:
        authority: who signs its certificates; None where it speaks in the clear.
        passwords: of its users; empty where everybody may do everything.
    """

    authority: Authority | None = None
    passwords: Mapping[str, str] = {}

    @property
    def url(self) -> str:
        """For all members, without credentials."""
        return self.url_of(*self.nodes)

    def url_of(self, *nodes: Node, user: str = "", path: str = "", **options: object) -> str:
        """For some of the members, as a user (`name:password`), under a prefix, with options."""
        hosts = ",".join(node.ports.at("client") for node in nodes or self.nodes)
        if self.authority is not None:
            options = {"ca": self.authority.ca, **options}
        query = "&".join(f"{name}={value}" for name, value in options.items())
        return (
            f"{'etcd' if self.authority is None else 'etcds'}://{user + '@' if user else ''}{hosts}"
            f"{'/' + path if path else ''}{'?' + query if query else ''}"
        )

    def leader(self) -> Node:
        """The member that leads."""
        return next(
            node for node in self.nodes if node.running and "etcd_server_is_leader 1\n" in metrics(node)
        )

    def requests(self) -> dict[str, int]:
        """How many requests the members have had since they were started, by method: `Txn`, `Range`, ..."""
        counted: dict[str, int] = {}
        for node in self.nodes:
            for labels, number in _HANDLED.findall(metrics(node)):
                method = re.search('grpc_method="([^"]*)"', labels)
                if method is not None and float(number):
                    counted[method[1]] = counted.get(method[1], 0) + int(float(number))
        return counted

    def ask(self, method: str, *fields: bytes, token: str = "") -> bytes:
        """Any request of etcd's interface, of fields made by `text` and `number`; the answer's bytes."""
        metadata = [("token", token)] if token else []
        with self._channel() as channel:
            answer: bytes = channel.unary_unary(f"/etcdserverpb.{method}")(
                b"".join(fields), timeout=10.0, metadata=metadata
            )
        return answer

    def root_token(self) -> str:
        """What lets a request do everything where there are users."""
        answer = self.ask("Auth/Authenticate", text(1, ROOT), text(2, self.passwords[ROOT]))
        return _last_text(answer)

    def put(self, key: bytes, value: bytes) -> None:
        """Write past every backend."""
        token = self.root_token() if self.passwords else ""
        self.ask("KV/Put", text(1, key), text(2, value), token=token)

    def use_users(self) -> None:
        """Make the users, and ask everybody from now on who it is."""
        for user, password in self.passwords.items():
            named = [text(2, password)] if password else [text(3, number(1, 1))]  # by certificate alone
            self.ask("Auth/UserAdd", text(1, user), *named)
            if user != ROOT:
                self.ask("Auth/RoleAdd", text(1, user))
                begin = f"{user}/".encode()
                what = number(1, _READ_WRITE) + text(2, begin) + text(3, begin[:-1] + b"0")
                self.ask("Auth/RoleGrantPermission", text(1, user), text(2, what))
            self.ask("Auth/UserGrantRole", text(1, user), text(2, user))
        self.ask("Auth/AuthEnable")

    def _channel(self) -> Any:
        at = next(node for node in self.nodes if node.running).ports.at("client")
        if self.authority is None:
            return grpc.insecure_channel(at)
        pair = self.authority.client(ROOT)
        return grpc.secure_channel(
            at,
            grpc.ssl_channel_credentials(
                self.authority.ca.read_bytes(), pair.key.read_bytes(), pair.cert.read_bytes()
            ),
        )


def start(
    folder: Path,
    *,
    nodes: int = 1,
    tls: Authority | None = None,
    client_certificates: bool = False,
    passwords: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
) -> EtcdServer:
    """Start etcd and wait until it serves.

    Args:
        folder: where its members keep everything; removed at the end.
        nodes: 1 for a member alone, 3 for a cluster.
        tls: who signs the servers' certificates.
        client_certificates: refuse clients without a certificate of the same authority; its common name is
            the user where there are users.
        passwords: the users, who are asked for; `root` is to be among them. "" is a user by certificate.
        flags: further flags of every member, as {"auth-token-ttl": 2}.
    """
    program = get.program("etcd")
    ports = [Ports("client", "peer", "metrics") for _ in range(nodes)]
    names = [f"etcd-{index + 1}" for index in range(nodes)]
    cluster = ",".join(f"{name}=http://{at.at('peer')}" for name, at in zip(names, ports, strict=True))
    made: list[Node] = []
    for name, at in zip(names, ports, strict=True):
        client = f"{'https' if tls else 'http'}://{at.at('client')}"
        peer = f"http://{at.at('peer')}"
        said = {
            "name": name,
            "data-dir": folder / name / "data",
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": cluster,
            "initial-cluster-token": folder.parent.name,
            "listen-metrics-urls": f"http://{at.at('metrics')}",
            "logger": "zap",
            "log-level": "warn",
            **(_tls(tls, client_certificates) if tls else {}),
            **(flags or {}),
        }
        command = [str(program.path), *(f"--{flag}={value}" for flag, value in said.items())]
        made.append(Node(name, command, folder=folder / name, ports=at, ready=serves, image=program.image))
    server = EtcdServer(made, program.version, folder)
    server.authority, server.passwords = tls, passwords or {}
    server.up()
    if passwords:
        server.use_users()
    return server


def serves(node: Node) -> bool:
    """Whether a member serves clients: it has a leader."""
    return b'"true"' in _get(node, "health")


def metrics(node: Node) -> str:
    """A member's own numbers."""
    return _get(node, "metrics").decode()


def text(field: int, value: str | bytes) -> bytes:
    """A field with text, bytes or a message."""
    body = value.encode() if isinstance(value, str) else value
    return bytes([field << 3 | 2]) + _length(len(body)) + body


def number(field: int, value: int) -> bytes:
    """A field with a number that is not negative, or a truth."""
    return bytes([field << 3]) + _length(value)


def _length(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def _last_text(answer: bytes) -> str:
    """The token in an answer to Authenticate: what stands behind the header."""
    behind = answer[2 + answer[1] :]
    return behind[2 if behind[1] < 0x80 else 3 :].decode()


def _get(node: Node, path: str) -> bytes:
    with urllib.request.urlopen(f"http://{node.ports.at('metrics')}/{path}", timeout=5.0) as answer:
        body: bytes = answer.read()
    return body


def _tls(authority: Authority, client_certificates: bool) -> dict[str, object]:
    server = authority.server("server", HOST, "localhost", "etcd.test")
    asks = {"client-cert-auth": "true", "trusted-ca-file": authority.ca} if client_certificates else {}
    return {"cert-file": server.cert, "key-file": server.key, **asks}
