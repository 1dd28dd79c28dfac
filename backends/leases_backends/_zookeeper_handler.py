"""Sockets and threads for kazoo: TLS by our rules, limits on every wait, and nothing secret in a log.

Kazoo's own would follow a host that does not answer for a whole session, would not see what TLS has decrypted
already, and logs credentials at DEBUG.
"""

from __future__ import annotations

import atexit
import logging
import select
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from kazoo.handlers.threading import SequentialThreadingHandler

from leases.errors import ConfigurationError
from leases_backends._tls import Tls

_CONNECT: Final = 1.0  # seconds for the connection to one server
_HANDSHAKE: Final = 2.0  # seconds for its TLS handshake
_STALL: Final = 2.0  # seconds in which a server that has begun a message, or was greeted, has to go on
_PATIENCE: Final = 1.0  # seconds without an answer after which another server may have one
_MOST: Final = (
    8.0  # seconds to which both grow, so that servers which are only slow are not given up for ever
)

_log: Final = logging.getLogger("leases_backends.zookeeper")
_log.addHandler(logging.NullHandler())


class Handler(SequentialThreadingHandler):  # type: ignore[misc]  # kazoo has no types
    """The threads and sockets of one client.

    Attributes:
        logger: what kazoo logs into.
        trouble: what went wrong last on the way to a server, for people.
        refusal: why it is no use to try on, for people; empty while it is.
        ended: whether the client's main thread is gone.
        patience: seconds without an answer after which the connection is to be dropped.
        silent_since: when the oldest request was sent that was not answered in time, and none since.
    """

    def __init__(self, tls: Tls | None, servers: int, notice: Callable[[], None]) -> None:
        super().__init__()
        self.logger = _Logger(self)
        self.trouble = ""
        self.refusal = ""
        self.ended = False
        self.patience, self._stall = _PATIENCE, _STALL
        self.silent_since: float | None = None
        self._tls, self._servers, self._notice = tls, servers, notice
        self._distrusted: set[Any] = set()
        self._peer: Any = None
        self._socket: socket.socket | None = None
        self._sockets: list[socket.socket] = []

    # ---- what happened ---------------------------------------------------------------------------

    def connected(self) -> None:
        """A server has accepted the session."""
        self.trouble, self.refusal, self.silent_since, self._stall = "", "", None, _STALL
        self._distrusted.clear()

    def note(self, trouble: str) -> None:
        """Something went wrong on the way to a server."""
        self.trouble = trouble
        if "[SSL" in trouble and ("CERTIFICATE" in trouble or "ALERT" in trouble):
            self._distrusted.add(self._peer)
            if len(self._distrusted) >= self._servers:
                self.refuse(f"TLS fails ({trouble}); check ca=, server_name=, cert= and key=")

    def answered(self) -> None:
        """A request was answered."""
        self.silent_since, self.patience = None, _PATIENCE

    def refuse(self, why: str) -> None:
        """Trying on is no use until something is changed."""
        self.refusal = why
        self._notice()

    # ---- sockets ---------------------------------------------------------------------------------

    def create_connection(
        self, address: tuple[str, int], hostname: str = "", timeout: float = _CONNECT, **_: Any
    ) -> socket.socket:
        """Connect to one server; what kazoo says about TLS is ignored."""
        self._peer = address
        connection = open_socket(address, hostname, min(timeout, _CONNECT), self._tls)
        self._socket = connection
        return connection

    def create_socket_pair(self) -> tuple[socket.socket, socket.socket]:
        """What other threads wake the main thread by."""
        pair = socket.socketpair()
        self._sockets += pair
        return pair

    def select(
        self, rlist: Sequence[Any], wlist: Sequence[Any], xlist: Sequence[Any], timeout: float | None = None
    ) -> tuple[list[Any], list[Any], list[Any]]:
        """As `select.select`, for any number of files, and for what TLS keeps in store."""
        decrypted = [one for one in rlist if isinstance(one, ssl.SSLSocket) and one.pending()]
        if decrypted:
            return decrypted, [], []
        if len(rlist) + len(wlist) == 1:  # In the midst of a message or of the greeting.
            timeout = self._stall if timeout is None else min(timeout, self._stall)
        if not hasattr(select, "poll"):
            ready: tuple[list[Any], list[Any], list[Any]] = super().select(rlist, wlist, xlist, timeout)
            return ready
        poll = select.poll()  # Unlike epoll it leaves no descriptor behind in the child of a fork.
        for one in (*rlist, *wlist):
            poll.register(one, select.POLLIN if one in rlist else select.POLLOUT)
        found = {number for number, _ in poll.poll(None if timeout is None else max(timeout, 0.0) * 1000)}
        if not found and len(rlist) + len(wlist) == 1:
            self._stall = min(2 * self._stall, _MOST)
        return (
            [one for one in rlist if one.fileno() in found],
            [one for one in wlist if one.fileno() in found],
            [],
        )

    def drop(self) -> None:
        """Cut the connection, from any thread: kazoo notices, and goes on to the next server."""
        self.silent_since, self.patience = None, min(2 * self.patience, _MOST)
        connection = self._socket
        if connection is not None:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def abandon(self) -> None:
        """In the child of a fork: close the inherited descriptors; nothing goes over the wire."""
        atexit.unregister(self.stop)
        for one in (self._socket, *self._sockets):
            if one is not None:
                with suppress(OSError):
                    one.close()

    # ---- threads ---------------------------------------------------------------------------------

    def spawn(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> threading.Thread:
        """Start one of kazoo's threads; when one ends, whatever ended it, whoever waits is told."""

        def run() -> None:
            try:
                func(*args, **kwargs)
            except Exception as error:
                self.trouble = f"{type(error).__name__}: {error}"
            finally:
                self.ended = True
                self._notice()

        thread = threading.Thread(target=run, name="leases-zookeeper", daemon=True)
        thread.start()
        return thread


def open_socket(address: tuple[str, int], hostname: str, timeout: float, tls: Tls | None) -> socket.socket:
    """A connection to one server, with TLS where it is asked for.

    Raises:
        OSError: there is none to be had.
    """
    connection = socket.create_connection(address, timeout)
    try:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is None:
            return connection
        connection.settimeout(_HANDSHAKE)
        return tls.context().wrap_socket(connection, server_hostname=tls.server_name or hostname)
    except ConfigurationError as error:
        connection.close()
        raise OSError(str(error)) from error
    except BaseException:
        connection.close()
        raise


class _Logger(logging.Logger):
    """What kazoo logs into: its warnings are kept for our errors, its details, with passwords, go nowhere.

    It is in no hierarchy, so that no configuration can make it say more.
    """

    def __init__(self, handler: Handler) -> None:
        super().__init__("leases_backends.zookeeper", logging.WARNING)
        self._handler = handler

    def handle(self, record: logging.LogRecord) -> None:
        *_, error = record.args if isinstance(record.args, tuple) and record.args else (None,)
        if isinstance(error, Exception):  # What is no error may be a request, and hold a password.
            said = str(error).removeprefix("socket connection error: ")
            self._handler.note(said)
            _log.info("%s", said)
