"""A place in one of the real stores, the links that lead to it, and what may be done to its server.

@every_place
def test_something(place: Place) -> None:
    with place.link() as link:      # a proxy of its own
        ...link.url...
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pytest

import stores
from servers import requests
from servers.certificates import Authority
from servers.proxy import Proxy, Splitter, Way

REAL: Final = tuple(kind for kind in stores.SHARED if kind.served)


def _every(kinds: Sequence[stores.Kind]) -> pytest.MarkDecorator:
    params = [
        pytest.param(kind, id=kind.name, marks=getattr(pytest.mark, kind.mark))
        for kind in stores._wanted(kinds)
    ]
    return pytest.mark.parametrize("place", params, indirect=True)


every_place: Final = _every(REAL)
every_guarding_place: Final = _every(tuple(kind for kind in REAL if kind.guards))

# Of a connection that is idle: of gRPC's, and of a ZooKeeper session's.
SIGNS_OF_LIFE: Final = frozenset({"PING", "ping"})

SPLITTERS: Final[dict[str, Callable[[], Splitter]]] = {
    "etcd": requests.Grpc,
    "zookeeper": requests.ZooKeeper,
    "consul": requests.Http1,
    "kubernetes": requests.Http1,
}


class Place:
    """A place of a test's own on the server that all tests share.

    Attributes:
        kind: the kind of store.
        url: the place.
        server: the server, as its fixture gives it.
    """

    def __init__(self, kind: stores.Kind, url: str, server: Any, folder: Path) -> None:
        self.kind, self.url, self.server, self._folder = kind, url, server, folder

    @property
    def name(self) -> str:
        """The store's name."""
        return self.kind.name

    @contextlib.contextmanager
    def link(self, *, counts: bool = False) -> Generator[Link]:
        """A way of its own to the store, which can be cut, and which counts requests where asked to."""
        if self.name == "kubernetes":
            with self._kubernetes_link(counts) as link:
                yield link
            return
        where = urlsplit(self.url)
        host, port = where.hostname, where.port
        assert host is not None and port is not None, self.url
        with Counter(port, host, splitter=SPLITTERS[self.name]) as proxy:
            yield Link(proxy, self.url.replace(f"{host}:{port}", proxy.at, 1))

    @contextlib.contextmanager
    def _kubernetes_link(self, counts: bool) -> Generator[Link]:
        """There the address stands in a kubeconfig, and to see requests the proxy has to end TLS."""
        if not self.can_freeze:
            pytest.skip("the proxy needs the authority of an API server that the tests have started")
        port = self.server.nodes[-1].ports["https"]
        with self._ending_tls(port) if counts else Counter(port) as proxy:
            old = unquote(parse_qs(urlsplit(self.url).query)["kubeconfig"][0])
            new = self._folder / f"{proxy.port}.kubeconfig"
            new.write_text(Path(old).read_text().replace(f"127.0.0.1:{port}", proxy.at))
            yield Link(proxy, self.url.replace(quote(old), quote(str(new))))

    def _ending_tls(self, port: int) -> Counter:
        authority: Authority = self.server.authority
        accept = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        pair = authority.server("proxy")
        accept.load_cert_chain(pair.cert, pair.key)
        reach = ssl.create_default_context(cafile=str(authority.ca))
        return Counter(port, splitter=SPLITTERS[self.name], accept=accept, reach=reach)

    @property
    def can_freeze(self) -> bool:
        """Whether the server is a process of ours."""
        return hasattr(self.server, "nodes")

    def freeze(self) -> None:
        """The server stands still."""
        for node in self.server.nodes:
            node.freeze()

    def thaw(self) -> None:
        """The server goes on, if it stood still."""
        for node in self.server.nodes:
            node.thaw()


class Counter(Proxy):
    """A proxy that counts round trips as well: how often something was asked after an answer had come back.

    Requests that are sent in one go are one. So that an answer to the first of them does not come between,
    answers are to be delayed while it counts.
    """

    trips = 0
    _heard = True

    def passed(self, way: Way, chunk: bytes, splitter: Splitter | None) -> None:
        before = self._requests.total() - sum(self._requests[name] for name in SIGNS_OF_LIFE)
        super().passed(way, chunk, splitter)
        asked = self._requests.total() - sum(self._requests[name] for name in SIGNS_OF_LIFE)
        if self._heard and asked > before:
            self.trips, self._heard = self.trips + 1, False

    async def clear(self, way: Way, since: float) -> None:
        await super().clear(way, since)
        self._heard = self._heard or way is Way.BACK


class Link(NamedTuple):
    """A proxy, and the URL of the place by way of it."""

    proxy: Counter
    url: str


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A place on the server that the test was marked for."""
    kind: stores.Kind = request.param
    return Place(kind, kind.fresh(request), request.getfixturevalue(kind.name), tmp_path)
