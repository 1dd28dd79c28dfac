"""ZooKeeper for the tests: one server or an ensemble, with TLS and with passwords where a test wants them."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from servers import get
from servers.certificates import Authority, Pair
from servers.process import HOST, Node, Ports, Server

# Quick to start and small: a test's server lives for seconds, and several share two cores.
_JAVA = ("-Xmx128m", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-XX:+UseSerialGC", "-Xss512k")
_MAIN = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
_LOGIN = "org.apache.zookeeper.server.auth.DigestLoginModule"


class ZookeeperServer(Server):
    """One server or an ensemble: in the clear on `client` ports, over TLS on `secure`, where asked for."""

    @property
    def url(self) -> str:
        """For all servers, in the clear."""
        return self.url_of(*self.nodes)

    @property
    def secure_url(self) -> str:
        """For all servers, over TLS; options have to follow."""
        return self.url_of(*self.nodes, secure=True)

    def url_of(self, *nodes: Node, secure: bool = False, user: str = "", path: str = "") -> str:
        """For some of the servers, as a user (`name:password`), under a path."""
        hosts = ",".join(node.ports.at("secure" if secure else "client") for node in nodes)
        scheme = "zookeepers" if secure else "zookeeper"
        return f"{scheme}://{user + '@' if user else ''}{hosts}{'/' + path if path else ''}"

    def leader(self) -> Node:
        """The one that leads; a server alone leads itself."""
        return next(node for node in self.nodes if mode(node) in ("leader", "standalone"))


def start(
    folder: Path,
    *,
    nodes: int = 1,
    tls: Authority | None = None,
    client_certificates: bool = False,
    passwords: Mapping[str, str] | None = None,
    properties: Mapping[str, str] | None = None,
) -> ZookeeperServer:
    """Start ZooKeeper and wait until it serves.

    Args:
        folder: where its nodes keep everything; removed at the end.
        nodes: 1 for a server alone, 3 for an ensemble.
        tls: who signs the servers' certificates.
        client_certificates: refuse TLS clients without a certificate of the same authority.
        passwords: who may log in by SASL (DIGEST-MD5), with what.
        properties: further lines of the configuration; those that begin with "-D" are the JVM's.
    """
    program = get.program("zookeeper")
    ports = [Ports("client", "secure", "peer", "election") for _ in range(nodes)]
    lines = _common() | _ensemble(ports) | (_tls(tls, client_certificates) if tls else {})
    jvm = [*_JAVA, "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]
    if passwords:
        lines["authProvider.sasl"] = "org.apache.zookeeper.server.auth.SASLAuthenticationProvider"
        jvm.append(f"-Djava.security.auth.login.config={_login(folder, passwords)}")
    for key, value in (properties or {}).items():
        if key.startswith("-D"):
            jvm.append(f"{key}={value}")
        else:
            lines[key] = value
    made: list[Node] = []
    for index, at in enumerate(ports):
        home = folder / f"zookeeper-{index + 1}"
        own = {"dataDir": str(home / "data"), "clientPortAddress": HOST, "clientPort": str(at["client"])}
        if tls:
            own |= {"secureClientPort": str(at["secure"]), "secureClientPortAddress": HOST}
        (home / "data").mkdir(parents=True)
        (home / "data" / "myid").write_text(str(index + 1))
        (home / "zoo.cfg").write_text("".join(f"{key}={value}\n" for key, value in (lines | own).items()))
        command = [get.java(), *jvm, "-cp", f"{program.path}/*", _MAIN, str(home / "zoo.cfg")]
        node = Node(home.name, command, folder=home, ports=at, ready=serves, image=program.image)
        made.append(node)
    return ZookeeperServer(made, program.version, folder).up()


def serves(node: Node) -> bool:
    """Whether a server takes clients: of an ensemble, whether it is in a quorum."""
    return mode(node) in ("standalone", "leader", "follower", "observer")


def mode(node: Node) -> str:
    """What a server says it is; empty while it serves nobody or does not answer."""
    try:
        lines = tell(node, "srvr").splitlines()
    except OSError:
        return ""
    return next((line.partition(": ")[2] for line in lines if line.startswith("Mode: ")), "")


def tell(node: Node, word: str) -> str:
    """A server's answer to one of its four-letter words."""
    with closing(socket.create_connection((HOST, node.ports["client"]), timeout=1.0)) as connection:
        connection.sendall(word.encode())
        parts = list(iter(lambda: connection.recv(65536), b""))
    return b"".join(parts).decode()


def _common() -> dict[str, str]:
    return {
        "tickTime": "200",
        "initLimit": "50",
        "syncLimit": "25",
        "minSessionTimeout": "400",
        "maxSessionTimeout": "40000",
        "maxClientCnxns": "0",
        "admin.enableServer": "false",
        "4lw.commands.whitelist": "*",
    }


def _ensemble(ports: list[Ports]) -> dict[str, str]:
    if len(ports) == 1:
        return {}
    return {f"server.{index + 1}": f"{HOST}:{at['peer']}:{at['election']}" for index, at in enumerate(ports)}


def _tls(authority: Authority, client_certificates: bool) -> dict[str, str]:
    server: Pair = authority.server()
    return {
        "serverCnxnFactory": "org.apache.zookeeper.server.NettyServerCnxnFactory",
        "ssl.keyStore.location": str(server.both),
        "ssl.keyStore.type": "PEM",
        "ssl.trustStore.location": str(authority.ca),
        "ssl.trustStore.type": "PEM",
        "ssl.clientAuth": "need" if client_certificates else "none",
        "ssl.hostnameVerification": "false",  # of clients, whose certificates carry no address
    }


def _login(folder: Path, passwords: Mapping[str, str]) -> Path:
    users = "".join(f'\n    user_{user}="{password}"' for user, password in passwords.items())
    path = folder / "jaas.conf"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"Server {{\n    {_LOGIN} required{users};\n}};\n")
    return path
