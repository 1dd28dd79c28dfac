"""Fencing over HTTP: a header for clients, and middleware that refuses what comes from an earlier tenure.

    requests.put(url, json=state, headers=headers(lease))

    app = FencingMiddleware(app, fence=MemoryFence("orders"))           # ASGI; WsgiFencingMiddleware for WSGI

The header is ``Fencing-Token: 17;name=orders;holder=web-3:7``, the text of a `leases.fencing.Token`. What is
refused is answered with a status and a problem document (RFC 9457):

===  ============================================================================================
412  the token is of an earlier tenure (`StaleToken`), or not the present one (`NotCurrent`)
409  the token is of another lock (`ForeignToken`), or no token at all (`MalformedToken`)
428  there is none, where one is required
503  the fence could not tell in time: another write was under way, or the lock's store did not answer
===  ============================================================================================

The header is believed as it comes, and a number that is too high shuts out all that is below it, for good in
a `SqlFence` or a `FileFence`: put it behind whatever makes sure who calls.

What the application itself refuses, as by `SqlFence.check`, is answered in the same way if its error gets as
far as here. Frameworks answer errors before that: of Starlette's it is the middleware in its ``middleware=``
list that sees them; Django and Flask have to be told, where they handle errors, to answer with `refusal`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from http import HTTPStatus
from inspect import signature
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

from leases.errors import (
    ConfigurationError,
    ForeignToken,
    LeasesError,
    MalformedToken,
    NotCurrent,
    ResourceBusy,
    StaleToken,
    StoreError,
    TokenRefused,
)
from leases.fencing.level import Level
from leases.fencing.token import Token, of_lock
from leases.lease import Lease
from leases.record import check_name

if TYPE_CHECKING:
    from types import TracebackType

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]
StartResponse = Callable[..., Callable[[bytes], object]]
WsgiApp = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]

A = TypeVar("A", bound=Callable[..., Any])

HEADER: Final = "Fencing-Token"
KEY: Final = "leases.fencing_token"  # in ASGI's scope and in WSGI's environ
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})  # RFC 9110: they ask for no change
_PROBLEM: Final = "application/problem+json"


class Checks(Protocol):
    """A fence that can be asked by itself: `MemoryFence`, `FileFence`, `Validator`."""

    @property
    def name(self) -> str: ...
    def check(self, token: Token, /) -> object: ...


def headers(lease: Lease | Token, /) -> dict[str, str]:
    """What a request has to carry for the work of this lease.

    Raises:
        ConfigurationError: neither a lease nor a token.
    """
    return {HEADER: str(Token.of(lease))}


class _Gate:
    """What both middlewares decide alike: which request needs a token, and what a refusal looks like."""

    def __init__(
        self, fence: Checks | None, lock: str | None, required: bool, methods: Iterable[str] | None
    ) -> None:
        if fence is None and lock is None:
            raise ConfigurationError("neither fence= nor lock= says which lock guards; pass one of them")
        if fence is not None and not _can_be_asked(fence):
            raise ConfigurationError(
                f"fence={fence!r} has no check(token); pass a MemoryFence or a Validator, or lock= alone, "
                "and let the application check where it writes"
            )
        if fence is not None and lock is not None and fence.name != lock:
            raise ConfigurationError(f'lock="{lock}" and a fence of "{fence.name}" differ; pass one of them')
        self.fence = fence
        self.name = check_name(lock if lock is not None else fence.name)  # type: ignore[union-attr]
        self._required = required
        self._methods = _check_methods(methods)

    def guards(self, method: str) -> bool:
        """Whether a request of this method needs a token."""
        # Some applications take "post" for POST, too: then it is to be guarded like it.
        return method not in _SAFE if self._methods is None else method.upper() in self._methods

    def token(self, given: list[str]) -> Token | None:
        """The token that the request's headers carry; None where there is none and none is required.

        Raises:
            TokenRefused: of another lock, or no token.
            _Missing: there is none.
        """
        if not given:
            if self._required:
                raise _Missing(self.name)
            return None
        if len(given) > 1:
            raise MalformedToken(", ".join(given), f"the header {HEADER} came {len(given)} times")
        return of_lock(self.name, Token.parse(given[0].strip(" \t")))

    def check(self, token: Token | None) -> None:
        """Ask the fence; it may wait."""
        if self.fence is not None and token is not None:
            self.fence.check(token)

    async def check_async(self, token: Token | None) -> None:
        """Ask the fence, off the loop unless it can be awaited."""
        if self.fence is None or token is None:
            return
        ask: Any = getattr(self.fence, "check_async", None)
        if ask is not None:
            await ask(token)
            return
        import asyncio

        await asyncio.to_thread(self.fence.check, token)


class _Missing(TokenRefused):
    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(name)

    def __str__(self) -> str:
        return f'this needs the header {HEADER} of a lease on "{self.name}"; send headers(lease)'


@dataclass(frozen=True)
class _Answer:
    """A refusal, ready to be sent."""

    status: HTTPStatus
    body: bytes

    @property
    def headers(self) -> list[tuple[str, str]]:
        sent = [("Content-Type", _PROBLEM), ("Content-Length", str(len(self.body)))]
        return [*sent, ("Retry-After", "1")] if self.status is HTTPStatus.SERVICE_UNAVAILABLE else sent


_REFUSALS: Final[tuple[tuple[type[LeasesError], HTTPStatus, str], ...]] = (
    (StaleToken, HTTPStatus.PRECONDITION_FAILED, "stale"),
    (NotCurrent, HTTPStatus.PRECONDITION_FAILED, "not current"),
    (ForeignToken, HTTPStatus.CONFLICT, "foreign"),
    (MalformedToken, HTTPStatus.CONFLICT, "malformed"),
    (_Missing, HTTPStatus.PRECONDITION_REQUIRED, "missing"),
    (ResourceBusy, HTTPStatus.SERVICE_UNAVAILABLE, "busy"),
    (StoreError, HTTPStatus.SERVICE_UNAVAILABLE, "unavailable"),
    (TokenRefused, HTTPStatus.CONFLICT, "refused"),
)


def _answer(error: LeasesError, name: str) -> _Answer:
    status, reason = next((status, reason) for kind, status, reason in _REFUSALS if isinstance(error, kind))
    if isinstance(error, StoreError):
        from leases.keeper import report

        report('a request that needs a token of "%s" could not be checked', name, error)
    problem: dict[str, Any] = {"title": status.phrase, "status": status.value, "reason": reason, "lock": name}
    # What went wrong between here and the lock's store is no business of whoever sent the request.
    problem["detail"] = "the lock's store did not answer" if isinstance(error, StoreError) else str(error)
    if isinstance(error, StaleToken):
        problem |= {"given": error.given, "highest": error.highest}
    return _Answer(status, json.dumps(problem).encode())


def refusal(error: TokenRefused | ResourceBusy) -> tuple[int, dict[str, str], bytes]:
    """The status, the headers and the body that the middleware would answer; for a framework's own handler.

    @flask_app.errorhandler(TokenRefused)                   # Django: in process_exception of a middleware
    def refused(error):
        status, headers, body = refusal(error)
        return body, status, headers

    Raises:
        ConfigurationError: another error.
    """
    if not isinstance(error, TokenRefused | ResourceBusy):
        raise ConfigurationError(f"{error!r} is no refusal; answer it as any other error")
    answer = _answer(error, error.name)
    return answer.status.value, dict(answer.headers), answer.body


def _can_be_asked(fence: object) -> bool:
    """Whether it has a check of a token alone; one that takes a transaction too has not."""
    try:
        signature(fence.check).bind(None)  # type: ignore[attr-defined]
    except (AttributeError, TypeError, ValueError):
        return False
    return True


class _Middleware(Generic[A]):
    """What the two kinds share: an application, and the gate before it."""

    level: Final = Level.ASKED

    def __init__(
        self,
        app: A,
        *,
        fence: Checks | None = None,
        lock: str | None = None,
        required: bool = True,
        methods: Iterable[str] | None = None,
    ) -> None:
        self._app = app
        self._gate = _Gate(fence, lock, required, methods)


class FencingMiddleware(_Middleware[AsgiApp]):
    """ASGI middleware: requests that change something pass with a token of the right lock and tenure.

    Without ``fence`` it reads the token, refuses other locks', and leaves the comparison to the application,
    which finds the `Token` in ``scope["leases.fencing_token"]`` and hands it to `SqlFence.check` in the
    transaction that writes. If that raises, and no framework answers it first (see `refusal`), the refusal is
    answered here, with the same statuses.

    Level: asked. With a ``fence`` alone it compares, and then the application writes; a request that is
    stopped in between gets through. With the application's own check in the step of its write, it is that
    check's level. WebSockets and other kinds of connections pass unchecked.

    Args:
        app: the application.
        fence: asked for every guarded request: a `MemoryFence`, a `FileFence`, or a `Validator`.
        lock: the name of the lock, where there is no fence.
        required: whether a guarded request without the header is refused. Default True.
        methods: what is guarded; by default every method but GET, HEAD, OPTIONS and TRACE.

    Raises:
        ConfigurationError: options that cannot work together.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self._gate.guards(scope["method"]):
            return await self._app(scope, receive, send)
        begun = False

        async def sending(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        ours = HEADER.lower().encode()
        given = [value.decode("latin-1") for key, value in scope["headers"] if key.lower() == ours]
        try:
            token = self._gate.token(given)
            await self._gate.check_async(token)
        except (TokenRefused, ResourceBusy, StoreError) as error:
            return await _send(send, _answer(error, self._gate.name))
        try:
            await self._app({**scope, KEY: token}, receive, sending)
        except (TokenRefused, ResourceBusy) as error:
            if begun:
                raise
            await _send(send, _answer(error, self._gate.name))


async def _send(send: Send, answer: _Answer) -> None:
    pairs = [(key.lower().encode(), value.encode()) for key, value in answer.headers]
    await send({"type": "http.response.start", "status": answer.status.value, "headers": pairs})
    await send({"type": "http.response.body", "body": answer.body})


class WsgiFencingMiddleware(_Middleware[WsgiApp]):
    """WSGI middleware: `FencingMiddleware` for Django, Flask and their like.

    The `Token` is in ``environ["leases.fencing_token"]``. Arguments, statuses and level are the same.
    """

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        if not self._gate.guards(environ["REQUEST_METHOD"]):
            return self._app(environ, start_response)
        given = environ.get("HTTP_" + HEADER.upper().replace("-", "_"))
        try:
            token = self._gate.token([] if given is None else [given])
            self._gate.check(token)
        except (TokenRefused, ResourceBusy, StoreError) as error:
            return _start(start_response, _answer(error, self._gate.name))
        environ[KEY] = token
        return self._guarded(environ, start_response)

    def _guarded(self, environ: dict[str, Any], start_response: StartResponse) -> Generator[bytes]:
        """What the application answers, or its refusal as long as nothing of an answer was sent."""
        begun = False
        parts: Iterable[bytes] = ()
        try:
            parts = self._app(environ, start_response)
            for part in parts:
                begun = begun or bool(part)
                yield part
        except (TokenRefused, ResourceBusy) as error:
            if begun:
                raise
            yield from _start(start_response, _answer(error, self._gate.name), sys.exc_info())
        finally:
            close = getattr(parts, "close", None)
            if close is not None:
                close()


_ExcInfo = tuple[type[BaseException] | None, BaseException | None, "TracebackType | None"]


def _start(start_response: StartResponse, answer: _Answer, error: _ExcInfo | None = None) -> list[bytes]:
    status = f"{answer.status.value} {answer.status.phrase}"
    if error is None:
        start_response(status, answer.headers)
    else:  # It takes back a start of the application, of which nothing was sent.
        start_response(status, answer.headers, error)
    return [answer.body]


def _check_methods(methods: Iterable[str] | None) -> frozenset[str] | None:
    if methods is None:
        return None
    if isinstance(methods, str | Mapping) or not isinstance(methods, Iterable):
        raise ConfigurationError(f'methods={methods!r} is no list of methods; pass one such as ["POST"]')
    found = frozenset(methods)
    for method in found:
        if not isinstance(method, str) or not method.isupper():
            raise ConfigurationError(f"{method!r} is no method of HTTP; write it as in POST")
    return found
