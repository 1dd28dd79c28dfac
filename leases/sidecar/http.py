"""The sidecar's answers over HTTP.

Every answer is `Cache-Control: no-store`; all but events and metrics are one JSON object. A path that is not
named here is answered as `/` is, because clients of the old leader-elector ask anything. A slash too many,
and parameters that a path does not take, count for nothing.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route

from leases.errors import ConfigurationError, LeasesError, StoreError, TokenRefused
from leases.fencing.validator import Validator
from leases.keeper import report
from leases.metrics import install
from leases.sidecar.access import Access
from leases.sidecar.board import LISTENERS, Board, TooMany
from leases.sidecar.events import EventStream, while_connected
from leases.sidecar.host import told_to_end
from leases.sidecar.queries import BadQuery, number, one, seconds

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from leases.sidecar.candidate import Candidate

WAIT_SECONDS: Final = 30.0
WAIT_MOST: Final = 300.0
BEAT_LEAST: Final = 0.5
VALIDATIONS: Final = 16  # at a time: each may keep a thread for as long as the store gives no answer

_HEADERS: Final = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))
_READ: Final = ("GET", "HEAD")
_SLASHES: Final = re.compile("/{2,}")
_ORIGIN: Final = re.compile("[a-z][a-z0-9+.-]*://[^/]*", re.IGNORECASE)

Handler = Callable[[Request], Awaitable[Response]]


def app(
    candidate: Candidate,
    *,
    access: Access | None = None,
    ready_leader_only: bool = False,
    validate_cache: float = 0.0,
    listeners: int = LISTENERS,
    registry: CollectorRegistry | None = None,
    routes: Sequence[BaseRoute] = (),
) -> Starlette:
    """The application; its lifespan starts the candidate, and stops it.

    `app.state.site` is the `Site` behind it.

    Args:
        candidate: who takes part.
        access: who may resign and transfer. Default: what runs on this host.
        ready_leader_only: `/readyz` is 200 on the leader alone.
        validate_cache: seconds for which a yes of the store is used again by `/validate`. Default 0.
        listeners: how many may hear of changes at a time, by `/events` and `/wait`. Default 100.
        registry: what `/metrics` shows; default that of prometheus_client.
        routes: more paths, looked at first.
    """
    site = Site(candidate, access or Access(), ready_leader_only, validate_cache, listeners, registry)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None, None]:
        async with site.open():
            yield

    made = Starlette(routes=[*routes, *site.routes()], lifespan=lifespan)
    made.state.site = site
    made.add_middleware(Frame)
    return made


class Site:
    """What the paths answer.

    Attributes:
        candidate: who takes part.
        board: tells of changes, and knows the history.
        access: who may change who leads.
    """

    def __init__(
        self,
        candidate: Candidate,
        access: Access,
        ready_leader_only: bool,
        validate_cache: float,
        listeners: int,
        registry: CollectorRegistry | None,
    ) -> None:
        self.candidate, self.access = candidate, access
        self.board = Board(candidate, listeners=listeners)
        self._ready_leader_only = ready_leader_only
        self._validator = Validator(candidate.url, candidate.name, cache=validate_cache)
        self._validating = 0
        self._closing: asyncio.Task[bool] | None = None
        self._stream = secrets.token_hex(4)
        self._registry = REGISTRY if registry is None else registry
        install(self._registry)

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None, None]:
        """Take part as long as the body lasts."""
        self.candidate.start()
        following = asyncio.create_task(self.board.follow())
        watching = asyncio.create_task(self._end_with_server())
        try:
            yield
        finally:
            watching.cancel()
            await self.close()
            await following

    async def _end_with_server(self) -> None:
        if await told_to_end():
            await self.close()

    async def close(self) -> bool:
        """Stop taking part, tell it, and end all streams and waits; whether the store has confirmed it.

        A server waits for its connections before it ends the lifespan, and streams do not end by
        themselves: what is told to end calls this first. Who calls it again, as the lifespan does, waits
        for the same end.
        """
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        return await asyncio.shield(self._closing)

    async def _close(self) -> bool:
        confirmed = await self.candidate.stop()
        self.board.close()
        self.candidate.close()
        return confirmed

    def routes(self) -> list[BaseRoute]:
        """All paths, the one for all others last."""
        read: dict[str, Handler] = {
            "/leader": self.leader,
            "/events": self.events,
            "/sse": self.events,
            "/wait": self.wait,
            "/validate": self.validate,
            "/history": self.history,
            "/ui": self.ui,
            "/healthz": self.healthz,
            "/readyz": self.readyz,
            "/metrics": self.metrics,
            "/isLeader": self.old_is_leader,
        }
        write: dict[str, Handler] = {"/resign": self.resign, "/transfer": self.transfer}
        return [
            *(Route(path, Endpoint(handler, _READ)) for path, handler in read.items()),
            *(Route(path, Endpoint(handler, ("POST",))) for path, handler in write.items()),
            Route("/{path:path}", Endpoint(self.state, _READ)),
        ]

    # ---- who leads -------------------------------------------------------------------------------

    async def state(self, _: Request) -> Response:
        """`GET /`, and every path without a meaning of its own."""
        return JSONResponse(self._body())

    async def leader(self, _: Request) -> Response:
        """`GET /leader`: 200 if this one leads, else 404."""
        body = self._body()
        return JSONResponse(body, 200 if body["is_leader"] else 404)

    async def old_is_leader(self, _: Request) -> Response:
        """`GET /isLeader`, as later versions of the old leader-elector had it."""
        return JSONResponse({"isLeader": self._body()["is_leader"]})

    async def events(self, request: Request) -> Response:
        """`GET /events`: server-sent events."""
        beat = seconds(request, "beat", None, least=BEAT_LEAST, most=WAIT_MOST)
        self.board.check_room()  # Later the answer has begun.
        return EventStream(self.board, self._stream, beat)

    async def wait(self, request: Request) -> Response:
        """`GET /wait?token=N`: the state, when it is newer than N or the time is over."""
        token = number(request, "token")
        timeout = seconds(request, "timeout", WAIT_SECONDS, least=0.0, most=WAIT_MOST)
        await while_connected(request.receive, self._newer(token, timeout))
        return JSONResponse(self._body())

    async def _newer(self, token: int, timeout: float) -> None:
        with self.board.listener() as listener, suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while (change := await listener.next()) is not None:
                    if change.state.at(self.candidate.now()).newer(token):
                        return

    async def history(self, _: Request) -> Response:
        """`GET /history`: who has led while this sidecar ran, newest first."""
        return JSONResponse({"lock": self.candidate.name, "history": self.board.history()})

    async def ui(self, request: Request) -> Response:
        """`GET /ui`: the same for people, as a page that keeps itself up to date."""
        from leases.sidecar.ui import headers, page

        control = self.access.refusal(request) is None
        return HTMLResponse(page(self._body(), self.board.history(), control=control), headers=headers())

    def _body(self) -> dict[str, Any]:
        return self.candidate.state().body(self.candidate.now())

    # ---- whether a caller leads --------------------------------------------------------------------

    async def validate(self, request: Request) -> Response:
        """`GET /validate?holder=&token=`: whether that one holds now, asked of the store."""
        holder, token = one(request, "holder"), number(request, "token")
        if self._validating >= VALIDATIONS:
            return _error(503, "too many are asking the store; ask again", {"retry-after": "1"})
        self._validating += 1
        try:
            valid = await _in_thread(partial(self._validator.valid, holder, token))
        except ConfigurationError as error:
            return _error(400, str(error))
        except (StoreError, TokenRefused) as error:
            return _error(503, str(error), {"retry-after": "1"})
        finally:
            self._validating -= 1
        return JSONResponse({"valid": valid, "holder": holder, "token": token}, 200 if valid else 409)

    # ---- giving it away ----------------------------------------------------------------------------

    async def resign(self, request: Request) -> Response:
        """`POST /resign`."""
        return await self._give_away(request, self.candidate.resign, "resigned")

    async def transfer(self, request: Request) -> Response:
        """`POST /transfer?to=`."""
        step = partial(self.candidate.transfer, one(request, "to"))
        return await self._give_away(request, step, "transferred")

    async def _give_away(self, request: Request, step: Callable[[], Awaitable[bool]], what: str) -> Response:
        refusal = self.access.refusal(request)
        if refusal is not None:
            return _error(403, refusal)
        if not self.candidate.state().is_leader:
            return _error(409, f"{self.candidate.id} does not lead; ask the leader")
        try:
            freed = await step()
        except ConfigurationError as error:
            return _error(400, str(error))
        if not freed:
            return _error(503, "the store did not confirm it; the lease runs out by itself")
        return JSONResponse({what: True})

    # ---- for those that look after it --------------------------------------------------------------

    async def healthz(self, _: Request) -> Response:
        """`GET /healthz`: whether what renews is alive; that somebody answers shows that the loop is."""
        reasons = list(self.candidate.health().reasons)
        if not self.candidate.begun:  # Mounted, an application has a lifespan that nobody enters by himself.
            reasons.append("it takes no part; let your application enter app.router.lifespan_context(app)")
        return JSONResponse({"ok": not reasons, "reasons": reasons}, 503 if reasons else 200)

    async def readyz(self, _: Request) -> Response:
        """`GET /readyz`: whether it takes part, or by `ready_leader_only`, whether it leads."""
        why = None if self.candidate.begun else "it takes no part"
        if self.candidate.stopping:
            why = "it is stopping"
        if self._ready_leader_only and not self.candidate.state().is_leader:
            why = why or "it does not lead"
        return JSONResponse({"ok": why is None, "reasons": [why] if why else []}, 200 if why is None else 503)

    async def metrics(self, request: Request) -> Response:
        """`GET /metrics`: for Prometheus."""
        encode, kind = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(self._registry), media_type=None, headers={"content-type": kind})


class Endpoint:
    """A handler with its methods; what it raises about a query is the asker's affair."""

    def __init__(self, handler: Handler, methods: tuple[str, ...]) -> None:
        self._handler, self._methods = handler, methods

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        request = Request(scope, receive)
        if request.method not in self._methods:
            allowed = ", ".join(self._methods)
            what = f"{request.method} is not for this path; use {allowed}"
            response: Response = _error(405, what, {"allow": allowed})
        else:
            response = await self._answer(request)
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        try:
            return await self._handler(request)
        except BadQuery as error:
            return _error(400, str(error))
        except TooMany:
            return _error(503, "too many are listening; ask again later", {"retry-after": "5"})
        except LeasesError as error:
            return _error(503, str(error))
        except Exception as error:
            report("an answer to %s failed", request.url.path, error)
            return _error(500, "the sidecar has a fault here; its log says more")


class Frame:
    """What is so for all paths: no slash too many counts in them, and no answer is kept by anybody.

    Else `//leader`, by who has joined a URL that ends in a slash to it, were a path without a meaning, and
    200 on every replica. A target may also be a whole URL, of which its path is taken, or none that has a
    path (`OPTIONS *`, `CONNECT`), which is `/`.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        root = scope.get("root_path", "")
        path = _SLASHES.sub("/", _path_of(scope["path"]))
        if path.endswith("/") and path.rstrip("/") != root.rstrip("/"):
            path = path.rstrip("/")
        scope = {**scope, "path": path}

        async def framed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *_HEADERS]}
            await send(message)

        await self._app(scope, receive, framed)


def _path_of(target: str) -> str:
    if target.startswith("/"):
        return target
    origin = _ORIGIN.match(target)
    return (target[origin.end() :] if origin else "") or "/"


async def _in_thread(ask: Callable[[], bool]) -> bool:
    """Ask in a thread that nobody waits for at the end, as the loop would for those of its own."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[bool] = loop.create_future()

    def tell(step: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # The loop has ended.
            loop.call_soon_threadsafe(lambda: None if answer.done() else step())

    def run() -> None:
        try:
            valid = ask()
        except Exception as error:
            failure = error
            tell(lambda: answer.set_exception(failure))
        else:
            tell(lambda: answer.set_result(valid))

    threading.Thread(target=run, name="leases-validation", daemon=True).start()
    return await answer


def _error(status: int, text: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": text}, status, headers)
