"""One connection to one member of an etcd cluster: the only place that knows gRPC.

Nothing below sends a request twice (`grpc.enable_retries` is off), connects through a proxy, or shares its
connection with another part of the program. Keepalives end a silent connection after some 12 s, as long as a
request or a watch waits on it; etcd refuses those that come more often than every 5 s.
"""

from __future__ import annotations

import importlib
import ipaddress
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final, Generic, Protocol, TypeVar

import grpc  # type: ignore[import-untyped] # pyright: ignore[reportMissingTypeStubs] # It ships without types.

from leases_backends import _etcd_messages as messages
from leases_backends._tls import Tls

Q = TypeVar("Q")
A = TypeVar("A")
Metadata = tuple[tuple[str, str], ...]

CONNECT_S: Final = 2.5  # after which an attempt to connect is given up, and another endpoint is tried
_OPTIONS: Final = (
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.service_config_disable_resolution", 1),
    ("grpc.max_receive_message_length", -1),  # A scan meets what others wrote, of whatever size.
    ("grpc.keepalive_time_ms", 8000),
    ("grpc.keepalive_timeout_ms", 4000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", int(CONNECT_S * 1000)),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


@dataclass(frozen=True, slots=True, eq=False)
class Rpc(Generic[Q, A]):
    """A method of etcd's interface, and what goes in and out."""

    path: str
    question: type[Q]
    answer: type[A]


RANGE: Final = Rpc("/etcdserverpb.KV/Range", messages.RangeRequest, messages.RangeResponse)
TXN: Final = Rpc("/etcdserverpb.KV/Txn", messages.TxnRequest, messages.TxnResponse)
WATCH: Final = Rpc("/etcdserverpb.Watch/Watch", messages.WatchRequest, messages.WatchResponse)
GRANT: Final = Rpc("/etcdserverpb.Lease/LeaseGrant", messages.LeaseGrantRequest, messages.LeaseGrantResponse)
AUTHENTICATE: Final = Rpc(
    "/etcdserverpb.Auth/Authenticate", messages.AuthenticateRequest, messages.AuthenticateResponse
)
AUTH_STATUS: Final = Rpc(
    "/etcdserverpb.Auth/AuthStatus", messages.AuthStatusRequest, messages.AuthStatusResponse
)
STATUS: Final = Rpc("/etcdserverpb.Maintenance/Status", messages.StatusRequest, messages.StatusResponse)
ALARM: Final = Rpc("/etcdserverpb.Maintenance/Alarm", messages.AlarmRequest, messages.AlarmResponse)
MEMBERS: Final = Rpc(
    "/etcdserverpb.Cluster/MemberList", messages.MemberListRequest, messages.MemberListResponse
)


class Failed(Exception):
    """A request that was not answered as it should be.

    Whoever keeps it drops its traceback first: the frames hold the connection and the token.

    Attributes:
        code: gRPC's name for it, as `UNAVAILABLE`; `CLOSED` where the connection was closed here before.
        details: what etcd or gRPC says about it.
        unsent: what was asked for surely was not sent, whatever else failed.
    """

    def __init__(self, code: str, details: str, *, unsent: bool = False) -> None:
        self.code, self.details, self.unsent = code, details, unsent
        super().__init__(f"{code}: {details}")


class Stream(Protocol):
    """Answers of a watch, as they come; iterating raises `Failed` when it ends. Cancelling ends it."""

    def __iter__(self) -> Iterator[messages.WatchResponse]: ...
    def cancel(self) -> object: ...


class Wire:
    """A connection to one address, made at its first use and again whenever it breaks.

    Attributes:
        timeouts: how many requests in a row were not answered in time.
        pem: the certificates that it was made with.
    """

    def __init__(self, host: str, port: int, tls: Tls | None) -> None:
        self.timeouts = 0
        self.pem = tls.pem() if tls is not None else None
        _prepare_library()
        target, options = _target(host, port), list(_OPTIONS)
        if tls is None:
            self._channel: Any = grpc.insecure_channel(target, options)
        else:
            if tls.server_name:
                options += [("grpc.ssl_target_name_override", tls.server_name)]  # type: ignore[list-item]
            self._channel = grpc.secure_channel(target, _credentials(tls), options)
        self._calls: dict[object, Callable[..., Any]] = {}
        self._quiet = threading.Condition()
        self._served = 0  # what threads of gRPC's serve: streams, and requests in the background
        self._threads: set[threading.Thread] = set()

    def call(self, rpc: Rpc[Q, A], question: Q, timeout: float, metadata: Metadata) -> A:
        """Ask, and wait for the answer.

        Raises:
            Failed: there is none.
        """
        call = self._calls.get(rpc) or self._prepare(rpc)
        try:
            answer: A = call(question, timeout if timeout > 0 else 0.0, metadata)
        except grpc.RpcError as error:
            raise Failed(*_said(error)) from error.with_traceback(None)
        except ValueError as error:  # "Cannot invoke RPC on closed channel!"
            raise Failed("CLOSED", "the connection was closed", unsent=True) from error.with_traceback(None)
        return answer

    def ask(
        self,
        rpc: Rpc[Q, A],
        question: Q,
        timeout: float,
        metadata: Metadata,
        done: Callable[[A | None], None],
    ) -> None:
        """Ask, and have a thread of gRPC's call back with the answer, or with None."""
        call: Any = self._calls.get(rpc) or self._prepare(rpc)

        def answered(future: Any) -> None:
            done(future.result() if not future.cancelled() and future.exception() is None else None)

        try:
            future = call.future(question, timeout, metadata)
        except ValueError:
            done(None)
            return
        self._serve(future)
        future.add_done_callback(answered)

    def watch(self, requests: Iterator[messages.WatchRequest], metadata: Metadata) -> Stream:
        """Open a stream of watches; a thread of gRPC's takes the requests as they come."""

        def taken() -> Iterator[messages.WatchRequest]:
            self._threads.add(threading.current_thread())
            yield from requests

        try:
            stream = self._stream(WATCH)(taken(), None, metadata)
        except ValueError as error:
            raise Failed("CLOSED", "the connection was closed", unsent=True) from error.with_traceback(None)
        self._serve(stream)
        return _Stream(stream)

    def close(self) -> None:
        """End the connection and what is under way on it. Closing twice does no harm."""
        self._channel.close()

    def settle(self, patience: float) -> None:
        """Wait until the threads that served it have ended: gRPC prepares for no fork while they call it."""
        until = monotonic() + patience
        with self._quiet:
            while self._served and self._quiet.wait(until - monotonic()):
                pass
            threads = self._threads - {threading.current_thread()}
        for thread in threads:
            thread.join(max(until - monotonic(), 0.0))

    def _serve(self, call: Any) -> None:
        def ended(_: Any) -> None:
            with self._quiet:
                self._served -= 1
                self._threads.add(threading.current_thread())
                self._quiet.notify_all()

        with self._quiet:
            self._served += 1
        call.add_done_callback(ended)

    def _prepare(self, rpc: Rpc[Q, A]) -> Callable[..., Any]:
        """The method on this connection, made once: making it costs as much as a request."""
        question: Any = rpc.question
        answer: Any = rpc.answer
        call: Callable[..., Any] = self._channel.unary_unary(
            rpc.path, request_serializer=question.SerializeToString, response_deserializer=answer.FromString
        )
        return self._calls.setdefault(rpc, call)

    def _stream(self, rpc: Rpc[Any, Any]) -> Callable[..., Any]:
        call: Callable[..., Any] = self._channel.stream_stream(
            rpc.path,
            request_serializer=rpc.question.SerializeToString,
            response_deserializer=rpc.answer.FromString,
        )
        return call


class _Stream:
    """gRPC's stream, whose end is an error of ours."""

    def __init__(self, call: Any) -> None:
        self._call = call

    def __iter__(self) -> Iterator[messages.WatchResponse]:
        try:
            yield from self._call
            return
        except grpc.RpcError as error:
            code, details = _said(error.with_traceback(None))  # It is the stream: it would keep itself.
        raise Failed(code, details)

    def cancel(self) -> object:
        return self._call.cancel()


def _said(error: Any) -> tuple[str, str]:
    return error.code().name, error.details() or ""


def _target(host: str, port: int) -> str:
    try:
        version = ipaddress.ip_address(host).version
    except ValueError:
        return f"dns:///{host}:{port}"
    return f"ipv6:[{host}]:{port}" if version == 6 else f"ipv4:{host}:{port}"


def _credentials(tls: Tls) -> Any:
    ca, cert, key = tls.pem()
    return grpc.ssl_channel_credentials(ca or _system_authorities(tls), key, cert)


def _system_authorities(tls: Tls) -> bytes | None:
    """The authorities that the system trusts; None, which are gRPC's own, where it does not list them."""
    import ssl

    paths = ssl.get_default_verify_paths()
    for path in (paths.cafile, "/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"):
        try:
            with open(path or "", "rb") as file:
                return file.read()
        except OSError:
            pass
    trusted = tls.context().get_ca_certs(binary_form=True)
    return "".join(map(ssl.DER_cert_to_PEM_cert, trusted)).encode() or None


_kept: Final[list[Any]] = []


def _prepare_library() -> None:
    """Have gRPC stand from now on: a channel that is never used keeps it from shutting down with the others.

    It shuts down in the background, and takes locks for that. A fork in the midst of it is what gRPC's own
    preparations for a fork do not provide for: parent or child would wait for ever.
    """
    if not _kept:
        _meet_gevent()
        _kept.append(grpc.insecure_channel("ipv4:127.0.0.1:1", _OPTIONS))


def _meet_gevent() -> None:
    """Have gRPC wait as greenlets do where gevent has patched the threads that it would wait in."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None and monkey.is_module_patched("threading"):
        importlib.import_module("grpc.experimental.gevent").init_gevent()
