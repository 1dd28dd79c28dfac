"""A TCP proxy between clients and one server, for faults on the wire and for counting what goes over it.

    with Proxy(port=node.ports["client"], splitter=Grpc) as proxy:
        store = open_backend(f"etcd://{proxy.at}/locks")
        before = proxy.count()
        ...
        assert (proxy.count() - before).requests == {"KV/Txn": 1}
        proxy.silence(Way.BACK)          # the server hears the client, which hears nothing

A fault holds for all connections of the proxy, those to come included, until `heal`; who wants one client cut
off gives that client a proxy of its own. Silence is what a network does that drops packets: what was sent is
held, ends and resets too, and arrives when the link heals, as TCP would send it again; `cut` before `heal`
makes it lost. Unlike such a network, a silent proxy still accepts connections, and its kernel acknowledges.

Given TLS contexts it ends TLS on both sides, so that what goes over an encrypted link can be counted too.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import socket
import ssl
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, Self, TypeVar

from servers.process import HOST, Ports

_T = TypeVar("_T")

CHUNK: Final = 65536
CHUNKS_HELD: Final = 64  # past that the proxy stops reading, and the sender's own window fills up
ANSWER_S: Final = 10.0
GOODBYE_S: Final = 1.0
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


class Way(enum.Enum):
    """A direction: FORTH from the client to the server, BACK from the server to the client."""

    FORTH = "forth"
    BACK = "back"


BOTH: Final = (Way.FORTH, Way.BACK)


class Splitter(Protocol):
    """Finds requests in what one connection's client sends."""

    def feed(self, sent: bytes) -> list[str]:
        """The names of the requests that begin in it."""
        ...


@dataclass(frozen=True)
class Count:
    """What has gone through: connections opened, bytes either way, requests by name. They subtract."""

    connections: int = 0
    forth: int = 0
    back: int = 0
    requests: Counter[str] = field(default_factory=Counter[str])

    def __sub__(self, earlier: Count) -> Count:
        return Count(
            self.connections - earlier.connections,
            self.forth - earlier.forth,
            self.back - earlier.back,
            self.requests - earlier.requests,
        )


class Proxy:
    """One listening port, forwarded to one server; its methods are for the tests' threads and act at once.

    Args:
        host, port: the server.
        splitter: makes what finds requests in a connection; without it, requests are not counted.
        accept: the context that clients are accepted with, where they speak TLS that is to be ended here.
        reach: the context that the server is reached with, likewise.
    """

    def __init__(
        self,
        port: int,
        host: str = HOST,
        *,
        splitter: Callable[[], Splitter] | None = None,
        accept: ssl.SSLContext | None = None,
        reach: ssl.SSLContext | None = None,
    ) -> None:
        self._server = (host, port)
        self._splitter, self._accept, self._reach = splitter, accept, reach
        self._held = Ports("proxy")
        self._delay = dict.fromkeys(BOTH, 0.0)
        self._silent: set[Way] = set()
        self._links: set[_Link] = set()
        self._listener: asyncio.Server | None = None
        self._connections = 0
        self._bytes = dict.fromkeys(BOTH, 0)
        self._requests = Counter[str]()
        self._loop = asyncio.new_event_loop()
        self._changed = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._do(self._listen())

    @property
    def port(self) -> int:
        """The port on 127.0.0.1 that clients connect to."""
        return self._held["proxy"]

    @property
    def at(self) -> str:
        """`127.0.0.1:PORT`."""
        return self._held.at("proxy")

    @property
    def open(self) -> int:
        """How many connections there are now."""
        return len(self._links)

    def count(self) -> Count:
        """What has gone through until now."""

        async def counted() -> Count:
            forth, back = (self._bytes[way] for way in BOTH)
            return Count(self._connections, forth, back, self._requests.copy())

        return self._do(counted())

    def delay(self, seconds: float, *ways: Way) -> None:
        """Let everything arrive later by so much; both ways unless one is named. What is under way too."""

        async def delay() -> None:
            self._delay.update(dict.fromkeys(ways or BOTH, seconds))
            self._change()

        self._do(delay())

    def silence(self, *ways: Way) -> None:
        """Let nothing arrive any more, without a word to either side; both ways unless one is named."""

        async def silence() -> None:
            self._silent.update(ways or BOTH)
            self._change()

        self._do(silence())

    def cut(self, *, reset: bool = True) -> None:
        """End all connections, on both sides, by a reset (RST) or in good order (FIN); new ones may come."""

        async def cut() -> None:
            for link in list(self._links):
                link.end(reset=reset)

        self._do(cut())

    def refuse(self) -> None:
        """Refuse new connections, as a host does where nobody listens; those that are stay."""

        async def refuse() -> None:
            if self._listener is not None:
                self._listener.close()
                self._listener = None

        self._do(refuse())

    def heal(self) -> None:
        """No delay, no silence, no refusal: what was held arrives now."""

        async def heal() -> None:
            self._delay = dict.fromkeys(BOTH, 0.0)
            self._silent.clear()
            self._change()
            if self._listener is None:
                await self._listen()

        self._do(heal())

    def close(self) -> None:
        """End everything; the thread and all sockets are gone then."""
        self.refuse()
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(ANSWER_S)
        self._loop.close()
        self._held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def clear(self, way: Way, since: float) -> None:
        """Return when what was read at `since` may go on."""
        while way in self._silent or since + self._delay[way] > time.monotonic():
            left = None if way in self._silent else since + self._delay[way] - time.monotonic()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), left)

    def passed(self, way: Way, chunk: bytes, splitter: Splitter | None) -> None:
        """Count what was read."""
        self._bytes[way] += len(chunk)
        if way is Way.FORTH and splitter is not None:
            self._requests.update(splitter.feed(chunk))

    def _do(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(ANSWER_S)

    async def _listen(self) -> None:
        self._listener = await asyncio.start_server(self._connected, HOST, self.port, ssl=self._accept)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        link = _Link(self, self._splitter() if self._splitter is not None else None, writer)
        self._links.add(link)
        try:
            await link.run(reader, self._server, self._reach)
        finally:
            self._links.discard(link)

    def _change(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _end(self) -> None:
        for link in list(self._links):
            link.end(reset=True)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0)  # what was aborted is closed in the loop's next turn


class _Link:
    """One connection through the proxy: a pump each way, and what each still holds."""

    def __init__(self, proxy: Proxy, splitter: Splitter | None, client: asyncio.StreamWriter) -> None:
        self._proxy, self._splitter = proxy, splitter
        self._writers = [client]
        self._pumps: list[asyncio.Task[None]] = []

    async def run(
        self, client: asyncio.StreamReader, server: tuple[str, int], tls: ssl.SSLContext | None
    ) -> None:
        """Pump until both sides have ended."""
        try:
            reader, writer = await asyncio.open_connection(*server, ssl=tls)
        except OSError:
            self.end(reset=True)
            return
        self._writers.append(writer)
        ways = ((Way.FORTH, client, writer), (Way.BACK, reader, self._writers[0]))
        self._pumps = [asyncio.create_task(self._pump(*way)) for way in ways]
        await asyncio.gather(*self._pumps, return_exceptions=True)
        self.end(reset=False)
        for writer in self._writers:  # TLS says goodbye and waits for the other's, which may never come.
            with contextlib.suppress(OSError, TimeoutError):
                await asyncio.wait_for(writer.wait_closed(), GOODBYE_S)
        self.end(reset=True)

    def end(self, *, reset: bool) -> None:
        """Close both sides; what is held is lost."""
        for pump in self._pumps:
            pump.cancel()
        for writer in self._writers:
            if reset:
                _reset(writer)
            elif not writer.is_closing():  # Closed a second time, a TLS transport cannot be reset any more.
                writer.close()

    async def _pump(self, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held: asyncio.Queue[tuple[float, bytes | None]] = asyncio.Queue(CHUNKS_HELD)
        reading = asyncio.create_task(self._read(way, reader, held))
        try:
            while True:
                at, chunk = await held.get()
                await self._proxy.clear(way, at)
                if chunk is None:
                    return self.end(reset=True)
                if not chunk:
                    return self._finish(writer)
                # Where the receiver has gone, the other pump reads of it, and tells when it may.
                with contextlib.suppress(OSError):
                    writer.write(chunk)
                    await writer.drain()
        finally:
            reading.cancel()

    async def _read(
        self, way: Way, reader: asyncio.StreamReader, held: asyncio.Queue[tuple[float, bytes | None]]
    ) -> None:
        """Hold what comes: pieces, at last an empty one for an end in good order or None for a reset."""
        chunk: bytes | None = b"-"
        while chunk:
            try:
                chunk = await reader.read(CHUNK)
            except OSError:
                chunk = None
            if chunk:
                self._proxy.passed(way, chunk, self._splitter)
            await held.put((time.monotonic(), chunk))

    def _finish(self, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            if writer.can_write_eof():
                writer.write_eof()
            else:  # TLS of this kind knows no half
                self.end(reset=False)


def _reset(writer: asyncio.StreamWriter) -> None:
    # A TLS transport of Python 3.11 that has closed knows its socket no more, and says so by the second.
    with contextlib.suppress(OSError, AttributeError):
        held: socket.socket | None = writer.get_extra_info("socket")
        if held is not None:
            held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    writer.transport.abort()
