"""Consul's HTTP API as one process speaks it: a few kept connections, and every request sent once.

`http.client` sends nothing again by itself, tells a connection that never came about from a request without
an answer, and costs half of what the libraries above it do. A connection that was cut while it lay idle
is found out before it is used, by looking whether its end can be read, and one that lay long is not used at
all: routers and load balancers forget silently.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import queue
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from leases.errors import ConfigurationError, StoreDenied, StoreUnavailable
from leases_backends._tcp import connected
from leases_backends._tls import Tls

MOST: Final = 12  # connections for calls at a time, watching not counted; further calls wait for one
_IDLE: Final = 60.0  # seconds after which an unused connection is closed instead of used
_CONNECT: Final = 5.0  # seconds for one attempt to connect, where the call has more
_LEAST: Final = 0.001  # seconds; a timeout of zero would mean not to wait at all
_LONGEST: Final = 3600.0

# An end that is gone without a word, its host or a router on the way, is noticed after half a minute.
_KEEPALIVE: Final = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}

# What a server's TLS says when it will never talk to us: neither now nor after a retry.
_REJECTIONS: Final = ("CERTIFICATE", "UNKNOWN_CA", "HANDSHAKE_FAILURE", "ACCESS_DENIED", "UNRECOGNIZED_NAME")


class NotSent(StoreUnavailable):
    """The request surely was not executed."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server answered: `index` is its X-Consul-Index, 0 where it gave none."""

    status: int
    index: int
    body: bytes
    filtered: bool

    @property
    def text(self) -> str:
        """The body for an error message."""
        return self.body[:300].decode("utf-8", "replace").strip()


class Wire:
    """The servers of one URL, as all of this process share them.

    Args:
        hosts: to be used in turn: the next one when one fails.
        tls: None for speech in the clear.
        token: asked for every request; empty for none.
        shown: the URL for messages.
    """

    def __init__(
        self, hosts: tuple[tuple[str, int], ...], tls: Tls | None, token: Callable[[], str], shown: str
    ) -> None:
        self.hosts, self.tls, self.token, self.shown = hosts, tls, token, shown
        self.users: Final[set[object]] = set()
        self.first = 0  # the host to try first: the last one that answered
        self._renew()

    def _renew(self) -> None:
        self._mutex = threading.Lock()
        self._idle: list[Line] = []
        self._lines: set[Line] = set()
        # A queue of the standard library's C part: Ctrl-C can leave a Condition locked, but not this.
        self._room: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(MOST):
            self._room.put(None)

    def ask(self, method: str, target: str, body: bytes | None, timeout: float) -> Answer:
        """Send a request once, and wait for its answer.

        Raises:
            NotSent: it surely was not executed.
            StoreUnavailable: nobody can say whether it was.
            StoreDenied: the server will not talk to us, and it was not executed.
        """
        until = time.monotonic() + timeout
        room = self._room
        try:
            room.get(timeout=min(max(timeout, 0.0), _LONGEST))
        except queue.Empty:
            raise NotSent(
                f"{self.shown}: {MOST} calls at a time kept it busy for {timeout:g} s; try again"
            ) from None
        try:
            return self._ask(method, target, body, until)
        finally:
            room.put(None)

    def _ask(self, method: str, target: str, body: bytes | None, until: float) -> Answer:
        with self._mutex:
            line = self._idle.pop() if self._idle else None
        line = line or self.line()
        kept = False
        try:
            answer = line.ask(method, target, body, until - time.monotonic())
            with self._mutex:
                if self.users:  # Else it was closed meanwhile.
                    self._idle.append(line)
                    kept = True
            return answer
        finally:
            if not kept:
                line.close()

    def line(self, *, patient: bool = False) -> Line:
        """A connection of one's own; for a patient one an answer may take minutes."""
        line = Line(self, patient)
        with self._mutex:
            self._lines.add(line)
        return line

    def discard(self, line: Line) -> None:
        """It was closed."""
        with self._mutex:
            self._lines.discard(line)

    def fail(self, host: int) -> None:
        """A host did not answer as it should: the next connection goes to the one after it."""
        if len(self.hosts) == 1 or self.first != host:
            return
        self.first = (host + 1) % len(self.hosts)
        with self._mutex:
            deaf = [line for line in self._lines if line.patient and line.host == host]
        for line in deaf:  # A host that stands still keeps its connections, and would never answer.
            line.cut()

    def close(self) -> None:
        """Cut all connections, once there are no users; the next call would make another."""
        with self._mutex:
            idle, self._idle = self._idle, []
            others = self._lines.difference(idle)
        for line in idle:
            line.close()
        for line in others:  # Whoever waits for an answer on it wakes up and closes it.
            line.cut()

    def forked(self) -> None:
        """In the child: the connections are the parent's, who goes on to use them."""
        lines = self._lines
        self._renew()
        for line in lines:
            line.forget()


class Line:
    """One connection, used by one thread at a time; it is made anew when it has to be."""

    def __init__(self, wire: Wire, patient: bool) -> None:
        self.patient: Final = patient
        self.host = 0  # which one it is connected to
        self._wire = wire
        self._connection: _Connection | None = None
        self._used = 0.0
        self._doomed = False

    def ask(self, method: str, target: str, body: bytes | None, timeout: float) -> Answer:
        """As `Wire.ask`; after an error the line is to be closed."""
        until = time.monotonic() + timeout
        if timeout <= 0:
            raise NotSent(f"{self._wire.shown}: no time was left to ask; allow more")
        connection = self._ready(until)
        if until - time.monotonic() <= 0:
            raise NotSent(f"{self._wire.shown}: connecting took all the time there was; allow more")
        if self._doomed:  # Asked last: whoever cuts it says so before looking for a socket to cut.
            raise NotSent(f"{self._wire.shown} was closed; connect again")
        sock = connection.sock
        headers = {"Content-Type": "application/json"} if body is not None else {}
        if token := self._wire.token():
            headers["X-Consul-Token"] = token
        try:
            sock.settimeout(_left(until))
            connection.request(method, target, body, headers)
            connection.flush()
            response = connection.getresponse()
            sock.settimeout(_left(until))
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            self._wire.fail(self.host)
            raise self._broken(error, timeout) from error
        self._used = time.monotonic()
        if response.status >= 500:
            self._wire.fail(self.host)
        index = response.getheader("X-Consul-Index") or "0"
        filtered = response.getheader("X-Consul-Results-Filtered-By-ACLs") == "true"
        return Answer(response.status, int(index) if index.isdecimal() else 0, content, filtered)

    def close(self) -> None:
        """Close the connection, whose answer nobody waits for any more."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        self._wire.discard(self)

    def cut(self) -> None:
        """Use it no more, and wake the thread that waits for an answer here; from any thread."""
        self._doomed = True
        connection = self._connection
        sock = connection.sock if connection is not None else None
        if sock is not None:
            with contextlib.suppress(OSError):  # An SSLSocket's own method would spoil it for the reader.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def forget(self) -> None:
        """In the child of a fork: close the descriptor, and say nothing on the wire."""
        connection, self._connection = self._connection, None
        if connection is not None and connection.sock is not None:
            descriptor = connection.sock.detach()
            if descriptor >= 0:
                os.close(descriptor)

    def _ready(self, until: float) -> _Connection:
        """The connection, which nothing is known against."""
        connection = self._connection
        if connection is not None and connection.sock is not None:
            old = time.monotonic() - self._used > _IDLE or self.host != self._wire.first
            if not old and not _readable(connection.sock):
                return connection
            connection.close()
        self._connection = None
        return self._connect(until)

    def _connect(self, until: float) -> _Connection:
        """Connect to the first host that answers; nothing was sent as long as none does."""
        wire, first, trouble = self._wire, self._wire.first, OSError("no host")
        for turn in range(len(wire.hosts)):
            host = (first + turn) % len(wire.hosts)
            share = min((until - time.monotonic()) / (len(wire.hosts) - turn), _CONNECT)
            try:
                if share <= 0:
                    raise TimeoutError("timed out")
                connection = self._opened(*wire.hosts[host], share)
            except OSError as error:
                if _is_refusal(error):
                    raise StoreDenied(f"{wire.shown}: {_why(error)}; {_advice(error)}") from error
                trouble = error
            else:
                self.host = wire.first = host
                return connection
        name, port = wire.hosts[first]
        raise NotSent(
            f"{wire.shown} cannot be reached: {_why(trouble)} ({name}:{port}); see that it runs there"
        ) from trouble

    def _opened(self, host: str, port: int, timeout: float) -> _Connection:
        connection = _Connection(host, port, timeout=timeout)
        self._connection = connection  # From here on a `cut` or a fork finds it.
        self._used = time.monotonic()
        until = self._used + timeout
        try:
            connection.connect()
            _keep_alive(connection.sock)
            if (tls := self._wire.tls) is not None:
                # Read anew for every connection: certificates are renewed under running processes.
                context = tls.context()
                connection.sock.settimeout(_left(until))
                connection.sock = context.wrap_socket(
                    connection.sock, server_hostname=tls.server_name or host
                )
        except ConfigurationError as error:
            connection.close()
            raise NotSent(str(error)) from error
        except BaseException:
            connection.close()
            raise
        return connection

    def _broken(self, error: Exception, timeout: float) -> StoreUnavailable | StoreDenied:
        if _is_refusal(error):  # Since TLS 1.3 the server looks at our certificate after the handshake.
            return StoreDenied(f"{self._wire.shown}: {_why(error)}; {_advice(error)}")
        if isinstance(error, TimeoutError):
            return StoreUnavailable(f"{self._wire.shown} gave no answer within {timeout:.3g} s; try again")
        return StoreUnavailable(f"{self._wire.shown}: the connection was lost ({_why(error)}); try again")


class _Connection(http.client.HTTPConnection):
    """Sends head and body of a request in one piece."""

    def __init__(self, host: str, port: int, *, timeout: float) -> None:
        super().__init__(host, port)
        self._limit = timeout
        self._pieces: list[bytes] = []

    def connect(self) -> None:
        self.sock = connected(self.host, self.port, self._limit)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, data: Any) -> None:
        self._pieces.append(data)

    def flush(self) -> None:
        """Send what has been said."""
        whole, self._pieces = b"".join(self._pieces), []
        try:
            self.sock.sendall(whole)
        except OSError:
            if isinstance(self.sock, ssl.SSLSocket):  # Who was turned away may still be told why.
                self.sock.recv(1)
            raise


def _left(until: float) -> float:
    return min(max(until - time.monotonic(), _LEAST), _LONGEST)


def _readable(sock: socket.socket) -> bool:
    """Whether an idle connection has something to say, which is that it was closed."""
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        return bool(poll.poll(0))
    return bool(select.select([sock], [], [], 0)[0])


def _keep_alive(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE.items():
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def _is_refusal(error: Exception) -> bool:
    if isinstance(error, ssl.SSLCertVerificationError):
        return True
    reason = getattr(error, "reason", None) or ""
    told = isinstance(error, ssl.SSLError) and "ALERT" in reason and any(w in reason for w in _REJECTIONS)
    return told or _is_plain(error)


def _is_plain(error: Exception) -> bool:
    """Whether the other side does not speak TLS at all."""
    reason = getattr(error, "reason", None) or ""
    return isinstance(error, ssl.SSLError) and reason in (
        "WRONG_VERSION_NUMBER",
        "HTTP_REQUEST",
        "RECORD_LAYER_FAILURE",
    )


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message})"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({(error.reason or str(error)).lower().replace('_', ' ')})"
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def _advice(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return "name its authority in ca=, or its name in server_name="
    if _is_plain(error):
        return "write consul: instead of consuls: if it does not use TLS"
    return "name a certificate that it accepts in cert= and key="
