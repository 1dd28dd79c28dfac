"""The proxy between a client and a server: what it passes on, holds back, cuts and counts."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import hpack
import pytest

from servers.certificates import Authority
from servers.proxy import Proxy, Splitter, Way
from servers.requests import Grpc, Http1, ZooKeeper

SOON_S = 0.05  # in which something on loopback would have arrived
LATER_S = 10.0


class Echo:
    """A server that sends back what it is sent, and remembers it."""

    def __init__(self) -> None:
        self.heard = b""
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connected, _ = self._listening.accept()
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._serve, args=(connected,)))
            self._threads[-1].start()

    def _serve(self, connected: socket.socket) -> None:
        with connected:
            try:
                while chunk := connected.recv(65536):
                    self.heard += chunk
                    connected.sendall(chunk)
                    if chunk == b"end":
                        return
            except OSError:
                self.heard += b"<reset>"

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in self._threads:
            thread.join(LATER_S)


@pytest.fixture
def echo() -> Iterator[Echo]:
    made = Echo()
    yield made
    made.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    with Proxy(echo.port) as made:
        yield made


@pytest.fixture
def client(proxy: Proxy) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=LATER_S) as connected:
        yield connected


def nothing_comes(client: socket.socket) -> bool:
    client.settimeout(SOON_S)
    try:
        client.recv(1)
    except TimeoutError:
        return True
    finally:
        client.settimeout(LATER_S)
    return False


def eventually(fact: Callable[[], bool]) -> bool:
    """Whether a callable comes true within the limit."""
    until = time.monotonic() + LATER_S
    while not fact():
        if time.monotonic() > until:
            return False
        time.sleep(0.005)
    return True


def exchange(client: socket.socket, said: bytes) -> bytes:
    client.sendall(said)
    heard = b""
    while len(heard) < len(said):
        chunk = client.recv(65536)
        if not chunk:
            break
        heard += chunk
    return heard


def test_what_is_sent_arrives_both_ways_and_is_counted(proxy: Proxy, client: socket.socket) -> None:
    """More than any buffer holds goes through unchanged."""
    much = bytes(range(256)) * 40_000
    sender = threading.Thread(target=client.sendall, args=(much,))
    sender.start()
    heard = bytearray()
    while len(heard) < len(much):
        heard += client.recv(1 << 20)
    sender.join()
    assert bytes(heard) == much
    count = proxy.count()
    assert (count.connections, count.forth, count.back) == (1, len(much), len(much))


def test_an_end_in_good_order_passes_through(proxy: Proxy, client: socket.socket) -> None:
    """Half-closed connections work: the answer comes after the client's end."""
    client.sendall(b"question")
    client.shutdown(socket.SHUT_WR)
    heard = b""
    while chunk := client.recv(100):
        heard += chunk
    assert heard == b"question"
    assert eventually(lambda: proxy.open == 0)


@pytest.mark.parametrize("way", Way)
def test_a_delay_holds_back_one_way(echo: Echo, proxy: Proxy, client: socket.socket, way: Way) -> None:
    """The server hears at once when only its replies are late."""
    assert exchange(client, b"a") == b"a"
    proxy.delay(0.5, way)
    began = time.monotonic()
    client.sendall(b"b")
    assert nothing_comes(client)
    assert (echo.heard == b"ab") == (way is Way.BACK)
    assert client.recv(1) == b"b"
    assert time.monotonic() - began >= 0.5


def test_a_delay_that_ends_lets_go_what_is_under_way(proxy: Proxy, client: socket.socket) -> None:
    """Healing does not wait for a delay of an hour."""
    proxy.delay(3600.0)
    client.sendall(b"a")
    assert nothing_comes(client)
    proxy.heal()
    assert client.recv(1) == b"a"


def test_silence_one_way_is_not_heard_of_on_the_other(
    echo: Echo, proxy: Proxy, client: socket.socket
) -> None:
    """The server hears the client, the client hears nothing, and all of it after the heal."""
    proxy.silence(Way.BACK)
    client.sendall(b"a")
    assert nothing_comes(client) and echo.heard == b"a"
    client.sendall(b"b")
    assert nothing_comes(client) and echo.heard == b"ab"
    proxy.heal()
    client.sendall(b"c")
    heard = b""
    while len(heard) < 3:
        heard += client.recv(3)
    assert heard == b"abc"


def test_silence_is_not_broken_by_an_end(echo: Echo, proxy: Proxy, client: socket.socket) -> None:
    """A server that goes away behind a silent link is not told of, until the link heals."""
    assert exchange(client, b"a") == b"a"
    proxy.silence(Way.BACK)
    client.sendall(b"end")
    assert eventually(lambda: echo.heard == b"aend")
    assert nothing_comes(client)
    proxy.heal()
    assert client.recv(3) == b"end" and client.recv(1) == b""


def test_what_was_held_when_the_link_is_cut_is_lost(echo: Echo, proxy: Proxy, client: socket.socket) -> None:
    """A cut while silent: the server never hears what the client has sent."""
    assert exchange(client, b"a") == b"a"
    proxy.silence(Way.FORTH)
    client.sendall(b"b")
    assert nothing_comes(client)
    proxy.cut()
    proxy.heal()
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    assert eventually(lambda: echo.heard == b"a<reset>")


def test_a_reset_is_a_reset_on_both_sides(echo: Echo, proxy: Proxy, client: socket.socket) -> None:
    """RST, not an end in good order; and the next connection goes through."""
    assert exchange(client, b"a") == b"a"
    proxy.cut()
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    assert eventually(lambda: echo.heard == b"a<reset>")
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=LATER_S) as again:
        assert exchange(again, b"b") == b"b"
    assert proxy.count().connections == 2


def test_a_cut_in_good_order_is_an_end(echo: Echo, proxy: Proxy, client: socket.socket) -> None:
    """FIN on both sides."""
    assert exchange(client, b"a") == b"a"
    proxy.cut(reset=False)
    assert client.recv(1) == b""
    assert eventually(lambda: proxy.open == 0) and echo.heard == b"a"


def test_a_reset_by_the_client_reaches_the_server(echo: Echo, proxy: Proxy, client: socket.socket) -> None:
    """And so does one by the server."""
    assert exchange(client, b"a") == b"a"
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    assert eventually(lambda: echo.heard == b"a<reset>")


def test_refused_connections_are_refused_and_others_stay(proxy: Proxy, client: socket.socket) -> None:
    """The port is the same after the heal."""
    assert exchange(client, b"a") == b"a"
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", proxy.port))
    assert exchange(client, b"b") == b"b"
    proxy.heal()
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=LATER_S) as again:
        assert exchange(again, b"c") == b"c"


def test_a_server_that_is_down_resets(echo: Echo) -> None:
    """Behind the proxy a server that does not listen looks like one that ends connections."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        # The reset may come while the client still connects.
        with (
            Proxy(nobody.getsockname()[1]) as proxy,
            pytest.raises(ConnectionResetError),
            socket.create_connection(("127.0.0.1", proxy.port), timeout=LATER_S) as client,
        ):
            client.recv(1)


def test_a_closed_proxy_leaves_no_thread(echo: Echo) -> None:
    """Nor a connection, whatever it held."""
    with Proxy(echo.port) as proxy:
        client = socket.create_connection(("127.0.0.1", proxy.port), timeout=LATER_S)
        assert exchange(client, b"a") == b"a"
        proxy.silence()
        client.sendall(b"b")
    assert not [thread for thread in threading.enumerate() if thread.name == "proxy"]
    with client, pytest.raises(ConnectionResetError):
        client.recv(1)


def test_tls_can_be_ended_at_the_proxy(echo: Echo, tmp_path: Path) -> None:
    """Then what goes over an encrypted link is counted; here the server behind speaks plainly."""
    authority = Authority(tmp_path)
    pair = authority.server()
    accept = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    accept.load_cert_chain(pair.cert, pair.key)
    trusting = ssl.create_default_context(cafile=str(authority.ca))
    with (
        Proxy(echo.port, splitter=Http1, accept=accept) as proxy,
        socket.create_connection(("127.0.0.1", proxy.port), timeout=LATER_S) as plain,
        trusting.wrap_socket(plain, server_hostname="127.0.0.1") as client,
    ):
        assert exchange(client, b"GET /a HTTP/1.1\r\n\r\n")
        assert proxy.count().requests == {"GET /a": 1}


HTTP = (
    b"PUT /v1/txn?dc=a HTTP/1.1\r\nHost: a\r\nContent-Length: 16\r\n\r\nGET / HTTP/1.1\r\n"
    b"POST /chunked HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nA;x=y\r\n0123456789\r\n1\r\na\r\n0\r\n\r\n"
    b"GET /v1/kv/a HTTP/1.1\r\nhost: b\r\n\r\n"
)


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def calls() -> bytes:
    """Three calls: a plain one, one whose head is padded, weighted and in two frames, and a stream."""
    encoder = hpack.Encoder()

    def head(path: str) -> bytes:
        return encoder.encode([(":method", "POST"), (":path", path), ("te", "trailers")])

    txn, again = head("/etcdserverpb.KV/Txn"), head("/etcdserverpb.KV/Txn")
    watch = head("/etcdserverpb.Watch/Watch")
    return b"".join(
        (
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            frame(4, 0, 0, b""),
            frame(1, 4, 1, txn) + frame(0, 1, 1, b"message"),
            frame(1, 8 | 32, 3, b"\2" + b"-----" + again[:1] + b"\0\0") + frame(9, 4, 3, again[1:]),
            frame(0, 0, 3, b"message") + frame(0, 1, 3, b""),
            frame(6, 0, 0, b"\0" * 8) + frame(6, 1, 0, b"\0" * 8),
            frame(1, 4, 5, watch) + frame(0, 0, 5, b"one") + frame(0, 0, 5, b"two"),
        )
    )


def operation(number: int) -> bytes:
    return b"\0\0\0\x0a" + b"\0\0\0\1" + number.to_bytes(4, "big", signed=True) + b"ab"


KEEPER = b"\0\0\0\x04abcd" + operation(5) + operation(11) + operation(5) + operation(-11) + operation(77)


@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize(
    ("kind", "sent", "requests"),
    [
        (Http1, HTTP, {"PUT /v1/txn": 1, "POST /chunked": 1, "GET /v1/kv/a": 1}),
        (Grpc, calls(), {"KV/Txn": 2, "Watch/Watch": 1, "Watch/Watch message": 1, "PING": 1}),
        (ZooKeeper, KEEPER, {"connect": 1, "setData": 2, "ping": 1, "closeSession": 1, "operation 77": 1}),
    ],
)
def test_requests_are_counted_by_name_however_they_are_cut(
    kind: Callable[[], Splitter], sent: bytes, requests: dict[str, int], size: int
) -> None:
    """Pieces of any size give the same count; what looks like a request inside a body is none."""
    splitter = kind()
    found = Counter[str]()
    for start in range(0, len(sent), size):
        found.update(splitter.feed(sent[start : start + size]))
    assert found == requests


def test_counts_subtract(echo: Echo) -> None:
    """A test counts from where it begins."""
    with (
        Proxy(echo.port, splitter=Http1) as proxy,
        socket.create_connection(("127.0.0.1", proxy.port), timeout=LATER_S) as client,
    ):
        exchange(client, b"GET /a HTTP/1.1\r\n\r\n")
        before = proxy.count()
        exchange(client, b"GET /b HTTP/1.1\r\n\r\n")
        since = proxy.count() - before
    assert (since.connections, since.requests, since.forth) == (0, {"GET /b": 1}, 19)
