"""Requests to the API server: bounded in time, sent once, over connections that threads share.

Nothing is ever sent twice by the transport underneath. The one exception is ours: an answer 401 means that
the request was not executed, so that it is sent again when fresh credentials have been had.
"""

from __future__ import annotations

import json
import os
import queue
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final
from urllib.parse import urlsplit

import urllib3
from urllib3.connection import HTTPConnection
from urllib3.exceptions import (
    ClosedPoolError,
    ConnectTimeoutError,
    HTTPError,
    NameResolutionError,
    NewConnectionError,
)
from urllib3.util import Timeout, make_headers

from leases.errors import ConfigurationError, StoreDenied, StoreUnavailable
from leases_backends._aside import Aside
from leases_backends._kubernetes_config import Access, Source, load
from leases_backends._tcp import connected

CONNECTIONS: Final = 16  # requests at a time, watches not counted; further ones wait for their turn
_LONGEST: Final = 3600.0
_LEAST: Final = 0.001  # seconds; a timeout of zero would mean not to wait at all
SILENCE: Final = 90.0  # seconds without a word on a watch, whose server sends a bookmark every minute


class NoAnswer(StoreUnavailable):
    """No answer came that could be used.

    Attributes:
        void: the request surely was not executed.
    """

    def __init__(self, message: str, *, void: bool) -> None:
        super().__init__(message)
        self.void = void


@dataclass(frozen=True, slots=True)
class Answer:
    """What the API server said: the HTTP status and the object, or the Status that explains an error."""

    status: int
    body: Mapping[str, Any]
    headers: Mapping[str, str]

    @property
    def reason(self) -> str:
        return str(self.body.get("reason") or "")

    @property
    def message(self) -> str:
        return str(self.body.get("message") or f"HTTP status {self.status}")[:500]


_Sent = tuple[Access, urllib3.BaseHTTPResponse]


def parsed(data: bytes) -> Mapping[str, Any]:
    """The object that an answer holds; empty for one that holds none, like those of a proxy in the way."""
    try:
        found = json.loads(data)
    except ValueError:
        found = {}
    return found if isinstance(found, dict) else {}


class Client:
    """One API server as one process talks to it.

    Args:
        where: the configuration, which is read anew when credentials have expired.
    """

    def __init__(self, where: Source) -> None:
        self._where = where
        self.access: Access = load(where)
        self._begin()

    def _begin(self) -> None:
        self._pool = _pool(self.access)
        self._renewal: _Renewal | None = None
        self._mutex = threading.Lock()
        self._room = _room()
        self._aside = Aside("kubernetes")  # urllib3 keeps its connections in a queue with Conditions.

    def call(self, method: str, path: str, timeout: float, body: object = None) -> Answer:
        """One request and its answer.

        Raises:
            NoAnswer: none came in time, or none that could be read.
            StoreDenied: the API server is not the one that was meant, or does not know us.
        """
        return self._aside.call(lambda: self._call(method, path, timeout, body))

    def _call(self, method: str, path: str, timeout: float, body: object) -> Answer:
        until = time.monotonic() + timeout
        access, response = self._send(method, path, timeout, body)
        if response.status == 401:
            self._renew(access, until)
            _, response = self._send(method, path, until - time.monotonic(), body)
            if response.status == 401:
                raise self.unknown_here()
        return Answer(response.status, parsed(response.data), response.headers)

    def stream(self, path: str, timeout: float) -> urllib3.BaseHTTPResponse:
        """A request whose answer goes on; raises as `call` does. Whoever gets the response closes it."""
        until = time.monotonic() + timeout
        access, response = self._request("GET", path, timeout, None, stream=True)
        if response.status == 401:
            response.close()
            self._renew(access, until)
            _, response = self._request("GET", path, timeout, None, stream=True)
            if response.status == 401:
                response.close()
                raise self.unknown_here()
        sock = getattr(response.connection, "sock", None)
        if sock is not None:
            sock.settimeout(SILENCE)
        return response

    @property
    def shown(self) -> str:
        """The API server for an error message."""
        return f"the API server {self.access.server}"

    def unknown_here(self) -> StoreDenied:
        """The error for credentials that the API server does not take."""
        return StoreDenied(
            f"{self.shown} does not know who we are (401): the credentials of {self._where.shown} are wrong "
            "or have expired; get new ones"
        )

    def close(self) -> None:
        """Close the connections that nobody uses; the others when they are done."""
        self._pool.close()
        self._aside.close()

    def forked(self) -> None:
        """In the child of a fork: new connections, and not a word on those of the parent."""
        self._begin()

    def _send(self, method: str, path: str, timeout: float, body: object) -> _Sent:
        """Send a request once there is room for it: a crowd of threads is not to be one of connections."""
        until, room = time.monotonic() + timeout, self._room
        try:
            room.get(timeout=min(max(timeout, 0.0), _LONGEST))
        except queue.Empty:
            raise NoAnswer(
                f"{self.shown} was not asked: {CONNECTIONS} requests at a time kept it busy "
                f"for {timeout:g} s; try again",
                void=True,
            ) from None
        try:
            return self._request(method, path, until - time.monotonic(), body)
        finally:
            room.put(None)

    def _request(
        self, method: str, path: str, timeout: float, body: object, *, stream: bool = False
    ) -> _Sent:
        if timeout <= 0:
            raise NoAnswer(f"{self.shown} was not asked: there was no time left; allow more", void=True)
        access, pool = self.access, self._pool
        headers = {"Accept": "application/json", "User-Agent": "leases"}
        if access.authorization:
            headers["Authorization"] = access.authorization
        if body is not None:
            headers["Content-Type"] = "application/json"
        data = None if body is None else json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
        try:
            return access, pool.urlopen(
                method,
                urlsplit(access.server).path + path,
                body=data,
                headers=headers,
                retries=False,
                redirect=False,
                timeout=Timeout(total=timeout),
                preload_content=not stream,
                decode_content=False,
            )
        except (HTTPError, OSError) as error:
            raise self._translated(error) from error

    def _translated(self, error: Exception) -> Exception:
        """What went wrong on the way: with the certificate, before anything was sent, or after it."""
        if isinstance(found := _cause(error, ssl.SSLCertVerificationError), ssl.SSLCertVerificationError):
            return StoreDenied(
                f"{self.shown} has a certificate that is not to be trusted ({found.verify_message}); "
                f"give the right certificate-authority or tls-server-name in {self._where.shown}"
            )
        void = isinstance(error, NewConnectionError | ConnectTimeoutError | ClosedPoolError)
        void = void or isinstance(_cause(error, NewConnectionError), NewConnectionError)
        why = "cannot be reached" if void else "gave no answer"
        return NoAnswer(f"{self.shown} {why} ({type(error).__name__}); is it up?", void=void)

    def _renew(self, access: Access, until: float) -> None:
        """Read the configuration anew, unless somebody has done it since; for as long as there is time.

        A plugin that takes longer goes on, and the next call has what it brings.
        """
        with self._mutex:
            if self.access is not access:
                return
            mine = self._renewal is None
            renewal = self._renewal = self._renewal or _Renewal(self)
        if mine:
            renewal.start()
        if not renewal.done.wait(max(0.0, until - time.monotonic())):
            raise NoAnswer(f"{self._where.shown} did not give new credentials in time", void=True)
        if renewal.error is not None:
            raise StoreDenied(str(renewal.error)) from renewal.error

    def renewed(self, renewal: _Renewal, access: Access | None) -> None:
        """Go on with fresh credentials, over connections of their own."""
        with self._mutex:
            if self._renewal is not renewal:
                return
            self._renewal = None
            if access is not None:
                # A certificate belongs to its connection, so that none of the old ones may be used again.
                old, self._pool = self._pool, _pool(access)
                self.access = access
                old.close()

    def load(self) -> Access:
        """Read the configuration once more."""
        return load(self._where)


def _room() -> queue.SimpleQueue[None]:
    """What a request takes and gives back: of the library's C part, which Ctrl-C cannot leave locked."""
    room: queue.SimpleQueue[None] = queue.SimpleQueue()
    for _ in range(CONNECTIONS):
        room.put(None)
    return room


class _Renewal:
    """Reading the configuration once, for all calls that need it, in a thread that nobody has to wait for."""

    def __init__(self, client: Client) -> None:
        self.done = threading.Event()
        self.error: ConfigurationError | None = None
        self._client = client

    def start(self) -> None:
        """Begin; at the end of the interpreter, when no thread can be started, do it here."""
        try:
            threading.Thread(target=self._run, name="leases-kubernetes-credentials", daemon=True).start()
        except RuntimeError:
            self._run()

    def _run(self) -> None:
        access = None
        try:
            access = self._client.load()
        except ConfigurationError as error:
            self.error = error
        finally:
            self._client.renewed(self, access)
            self.done.set()


def _cause(error: BaseException | None, kind: type[BaseException]) -> BaseException | None:
    """The first of a kind among an error and what it was made of.

    Its context is not looked at: that may be an error of our caller's, who is handling one.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, kind):
            return error
        seen.add(id(error))
        reason = getattr(error, "original_error", None) or getattr(error, "reason", None)
        reason = next((one for one in (reason, *error.args) if isinstance(one, BaseException)), None)
        error = reason or error.__cause__
    return None


def _pool(access: Access) -> urllib3.HTTPConnectionPool:
    """Connections to the server, through its proxy where it has one."""
    keywords: dict[str, Any] = {"maxsize": CONNECTIONS}
    if access.tls is not None:
        keywords |= {"ssl_context": access.tls}
        if access.server_name:
            keywords |= {"server_hostname": access.server_name}
    pool = _manager(access.proxy, keywords).connection_from_url(access.server)
    pool.ConnectionCls = _kept(pool.ConnectionCls)
    return pool


def _manager(proxy: str | None, keywords: dict[str, Any]) -> urllib3.PoolManager:
    if proxy is None:
        return urllib3.PoolManager(**keywords)
    if proxy.startswith("socks"):
        try:
            from urllib3.contrib.socks import SOCKSProxyManager
        except ImportError as error:
            raise ConfigurationError("a SOCKS proxy needs the package PySocks; install it") from error
        return SOCKSProxyManager(proxy, **keywords)
    who = urlsplit(proxy)
    headers = make_headers(proxy_basic_auth=f"{who.username}:{who.password or ''}") if who.username else None
    return urllib3.ProxyManager(proxy, proxy_headers=headers, **keywords)


_open: Final[set[Any]] = set()  # the connections of this process


class _Kept:
    """What makes a connection one that a forked child can find."""

    def connect(self) -> None:
        super().connect()  # type: ignore[misc] # of the class that it is mixed into
        _open.add(self)

    def close(self) -> None:
        _open.discard(self)
        super().close()  # type: ignore[misc]


class _Bounded:
    """What makes a connection one that is there, or not, within its timeout."""

    def _new_conn(self: Any) -> socket.socket:
        until = time.monotonic() + self.timeout
        try:
            opened = connected(self._dns_host.strip("[]"), self.port, self.timeout)
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error
        except TimeoutError as error:
            raise ConnectTimeoutError(self, f"connecting to {self.host} took too long") from error
        except OSError as error:
            raise NewConnectionError(self, f"connecting to {self.host} failed: {error}") from error
        for option in self.socket_options or ():
            opened.setsockopt(*option)
        opened.settimeout(max(until - time.monotonic(), _LEAST))  # for what TLS has to say
        return opened


@cache
def _kept(base: type[Any]) -> type[Any]:
    # One that goes through a SOCKS proxy has a way of its own.
    direct = base._new_conn is HTTPConnection._new_conn  # pyright: ignore[reportPrivateUsage]
    return type(f"Kept{base.__name__}", (_Kept, _Bounded, base) if direct else (_Kept, base), {})


def _forked() -> None:
    """Close the child's copies of the descriptors, and nothing else: the connections are the parent's."""
    for connection in tuple(_open):
        sock = getattr(connection.sock, "socket", connection.sock)  # TLS within TLS wraps the socket
        if sock is not None:
            # `close` could wait for a lock that a thread of the parent holds, and would say goodbye.
            os.close(sock.detach())
    _open.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
