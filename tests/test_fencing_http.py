"""Fencing over HTTP: what a client sends, and what ASGI and WSGI applications answer to an earlier tenure."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator as validated

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from databases import Database
from leases import ConfigurationError, StoreUnavailable
from leases.fencing import (
    FencingMiddleware,
    FileFence,
    Level,
    MemoryFence,
    ResourceBusy,
    SqlFence,
    StaleToken,
    Token,
    Validator,
    WsgiFencingMiddleware,
    headers,
    refusal,
)
from stores import Site

PATIENCE = 20.0


def token(number: int, name: str = "job") -> Token:
    return Token(name, number, "web-1")


@dataclass
class Answer:
    """What a client gets."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def problem(self) -> dict[str, Any]:
        assert self.headers["content-type"] == "application/problem+json"
        assert int(self.headers["content-length"]) == len(self.body)
        found: dict[str, Any] = json.loads(self.body)
        assert found["status"] == self.status and found["title"] and found["detail"]
        return found


class World:
    """An application of one colour behind the middleware; `work` is what it does with the token."""

    def __init__(self, colour: str, **options: Any) -> None:
        self.work: Callable[[Token | None], object] = lambda token: None
        self.begins_first = False
        self.seen: list[Token | None] = []
        self._ask = {"asgi": self._asgi, "wsgi": self._wsgi}[colour](**options)

    def ask(self, method: str = "POST", *tokens: Token | str) -> Answer:
        """One request, with these headers."""
        return self._ask(method, [str(token) for token in tokens])

    def _do(self, token: Token | None) -> None:
        self.seen.append(token)
        self.work(token)

    def _asgi(self, **options: Any) -> Callable[[str, list[str]], Answer]:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            start = {"type": "http.response.start", "status": 200, "headers": [(b"x-app", b"1")]}
            if self.begins_first:
                await send(start)
            await asyncio.to_thread(self._do, scope.get("leases.fencing_token"))
            if not self.begins_first:
                await send(start)
            await send({"type": "http.response.body", "body": b"done"})

        guarded = FencingMiddleware(app, **options)

        def ask(method: str, tokens: list[str]) -> Answer:
            sent = list[Any]()

            async def send(message: Any) -> None:
                sent.append(message)

            pairs = [(b"host", b"x"), *((b"fencing-token", one.encode()) for one in tokens)]
            scope = {"type": "http", "method": method, "path": "/", "headers": pairs}
            asyncio.run(guarded(scope, _nothing, send))
            body = b"".join(message.get("body", b"") for message in sent)
            return Answer(sent[0]["status"], {k.decode(): v.decode() for k, v in sent[0]["headers"]}, body)

        return ask

    def _wsgi(self, **options: Any) -> Callable[[str, list[str]], Answer]:
        def app(environ: Any, start_response: Any) -> Iterable[bytes]:
            if self.begins_first:
                start_response("200 OK", [("Content-Type", "text/plain")])(b"part")
            self._do(environ.get("leases.fencing_token"))
            if not self.begins_first:
                start_response("200 OK", [("Content-Type", "text/plain")])
            return [b"done"]

        guarded = WsgiFencingMiddleware(app, **options)

        def ask(method: str, tokens: list[str]) -> Answer:
            environ: dict[str, Any] = {"REQUEST_METHOD": method, "QUERY_STRING": ""}
            setup_testing_defaults(environ)
            if tokens:
                environ["HTTP_FENCING_TOKEN"] = ",".join(tokens)  # as servers join them
            # What it does not know, the validator warns of.
            return run_wsgi(guarded if method.upper() == "MOVE" else validated(guarded), environ)

        return ask


async def _nothing() -> Any:
    raise AssertionError("nobody reads the request")


def run_wsgi(app: Any, environ: dict[str, Any]) -> Answer:
    """As a server does: headers go with the first part that is not empty, and can be replaced until then."""
    kept, parts, sent = dict[str, Any](), list[bytes](), list[bool]()

    def start_response(status: str, pairs: list[tuple[str, str]], error: Any = None) -> Any:
        assert not kept or error is not None
        if error is not None and sent:
            raise error[1]
        kept.update(status=int(status[:3]), headers={key.lower(): value for key, value in pairs})

        def write(part: bytes) -> None:
            sent.append(True)
            parts.append(part)

        return write

    answer = app(environ, start_response)
    try:
        for part in answer:
            sent.extend([True] * bool(part))
            parts.append(part)
    finally:
        if hasattr(answer, "close"):
            answer.close()
    return Answer(kept["status"], kept["headers"], b"".join(parts))


@pytest.fixture(params=["asgi", "wsgi"])
def colour(request: pytest.FixtureRequest) -> str:
    made: str = request.param
    return made


# ---- what passes and what does not ---------------------------------------------------------------


def test_a_request_of_the_present_tenure_passes(colour: str) -> None:
    """And of a later one, which the fence remembers; the application finds the token."""
    world = World(colour, fence=MemoryFence("job"))
    for number in (5, 5, 6):
        assert world.ask("POST", token(number)).body == b"done"
    assert world.seen == [token(5), token(5), token(6)]


def test_a_stale_token_is_answered_by_412(colour: str) -> None:
    """The application does not hear of it; the answer says which token was here."""
    world = World(colour, fence=(fence := MemoryFence("job")))
    fence.seal(token(6))
    answer = world.ask("PUT", token(5))
    assert answer.status == 412 and not world.seen
    problem = answer.problem
    assert (problem["reason"], problem["lock"], problem["given"], problem["highest"]) == (
        "stale",
        "job",
        5,
        6,
    )


@pytest.mark.parametrize(
    ("sent", "reason"), [(["9;name=other"], "foreign"), (["junk"], "malformed"), ([""], "malformed")]
)
def test_a_foreign_or_malformed_token_is_answered_by_409(colour: str, sent: list[str], reason: str) -> None:
    """S56: however high its number is."""
    world = World(colour, fence=(fence := MemoryFence("job")))
    answer = world.ask("POST", *sent)
    assert (answer.status, answer.problem["reason"], world.seen, fence.highest) == (409, reason, [], None)


def test_two_tokens_are_none(colour: str) -> None:
    """Which of them was meant nobody knows."""
    world = World(colour, lock="job")
    assert world.ask("POST", token(1), token(1)).problem["reason"] == "malformed" and not world.seen


def test_a_missing_token_is_answered_by_428(colour: str) -> None:
    """Or let through, where it is said so; then the application finds None."""
    world = World(colour, lock="job")
    answer = world.ask("DELETE")
    assert answer.status == 428 and answer.problem["reason"] == "missing" and not world.seen
    world = World(colour, lock="job", required=False)
    assert world.ask("DELETE").body == b"done" and world.seen == [None]
    assert world.ask("DELETE", "junk").status == 409


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "TRACE"])
def test_what_changes_nothing_needs_no_token(colour: str, method: str) -> None:
    """Unless it is said that it does."""
    world = World(colour, lock="job")
    assert world.ask(method).status == 200
    world = World(colour, lock="job", methods=[method])
    assert world.ask(method).status == 428
    assert world.ask("POST").status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "MOVE"])
def test_everything_else_needs_one(colour: str, method: str) -> None:
    """Methods that nobody has thought of, too."""
    assert World(colour, lock="job").ask(method).status == 428


def test_a_method_is_guarded_however_it_is_spelt(colour: str) -> None:
    """An application may take it for the other: Django does."""
    world = World(colour, lock="job", methods=["MOVE"])
    for method in ("MOVE", "Move", "move"):
        assert world.ask(method).status == 428
    assert not world.seen and world.ask("POST").status == 200


def test_a_header_counts_however_it_is_spelt() -> None:
    """HTTP knows no case there; most servers of ASGI send it small, as they have to."""
    sent = list[Any]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("it was let through")

    async def send(message: Any) -> None:
        sent.append(message)

    guarded = FencingMiddleware(app, lock="job", required=False)
    pairs = [(b"Fencing-Token", b"1;name=other")]
    asyncio.run(guarded({"type": "http", "method": "PUT", "path": "/", "headers": pairs}, _nothing, send))
    assert sent[0]["status"] == 409


def test_who_cannot_tell_answers_503(colour: str, caplog: pytest.LogCaptureFixture) -> None:
    """A fence that is busy, a lock's store that is away: in doubt nothing passes. Details are for the log."""

    class Away:
        name = "job"

        def check(self, token: Token) -> None:
            raise StoreUnavailable("etcd://secret.test is away")

    fence = MemoryFence("job", timeout=0)
    with fence.admitted(token(1)):
        answer = World(colour, fence=fence).ask("POST", token(2))
    assert (answer.status, answer.problem["reason"], answer.headers["retry-after"]) == (503, "busy", "1")
    with caplog.at_level(logging.ERROR, "leases"):
        answer = World(colour, fence=Away()).ask("POST", token(2))
    assert answer.status == 503 and "secret" not in str(answer.problem) and "secret.test" in caplog.text


# ---- the application's own check -----------------------------------------------------------------


@pytest.mark.parametrize("error", [StaleToken("job", 1, 2), ResourceBusy("job", 1.0)])
def test_a_refusal_by_the_application_is_answered_alike(colour: str, error: Any) -> None:
    """It is the one that checks in the step of its write. A framework can answer so by itself."""

    def refuses(token: Token | None) -> None:
        raise error

    world = World(colour, lock="job")
    world.work = refuses
    answer = world.ask("POST", token(1))
    assert answer.status == (412 if isinstance(error, StaleToken) else 503)
    assert answer.problem["detail"] == str(error)
    status, pairs, body = refusal(error)
    assert (answer.status, answer.body) == (status, body)
    assert answer.headers == {key.lower(): value for key, value in pairs.items()}
    with pytest.raises(ConfigurationError):
        refusal(KeyError("job"))  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


def test_an_answer_that_has_begun_is_not_replaced(colour: str) -> None:
    """The client has seen its status: the error goes on to the server, which breaks the connection."""

    def refuses(token: Token | None) -> None:
        raise StaleToken("job", 1, 2)

    world = World(colour, lock="job")
    world.work, world.begins_first = refuses, True
    with pytest.raises(StaleToken):
        world.ask("POST", token(1))


def test_other_errors_are_the_servers(colour: str) -> None:
    """They go on as they are."""

    def fails(token: Token | None) -> None:
        raise KeyError("boom")

    world = World(colour, lock="job")
    world.work = fails
    with pytest.raises(KeyError, match="boom"):
        world.ask("POST", token(1))


def test_a_generator_of_wsgi_may_refuse_late() -> None:
    """It has told its status, and sent nothing yet; its answer is closed once."""
    closed = list[bool]()

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            yield b""
            raise StaleToken("job", 1, 2)

        def close(self) -> None:
            closed.append(True)

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return Body()

    environ: dict[str, Any] = {"REQUEST_METHOD": "POST", "HTTP_FENCING_TOKEN": str(token(1))}
    setup_testing_defaults(environ)
    assert run_wsgi(WsgiFencingMiddleware(app, lock="job"), environ).status == 412
    assert closed == [True]


def test_other_kinds_of_connections_pass() -> None:
    """Start and end of the application, and WebSockets."""
    seen = list[str]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    for kind in ("lifespan", "websocket"):
        asyncio.run(FencingMiddleware(app, lock="job")({"type": kind}, _nothing, _nothing))  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    assert seen == ["lifespan", "websocket"]
    assert FencingMiddleware.level is WsgiFencingMiddleware.level is Level.ASKED


# ---- whole -------------------------------------------------------------------------------------


def test_starlette_with_its_check_in_the_transaction(postgres: Any) -> None:
    """A late request of an earlier tenure is answered by 412 and changes nothing, wherever it was stopped."""
    database = Database("postgres", postgres.url)

    def put(request: Request) -> PlainTextResponse:
        given = request.scope["leases.fencing_token"]
        with database.transaction() as connection:
            database.write(connection, given.number)
            database.fence.check(connection, given)
        return PlainTextResponse("written")

    app = Starlette(
        routes=[Route("/", put, methods=["PUT"])], middleware=[Middleware(FencingMiddleware, lock="job")]
    )

    def ask(number: int) -> tuple[int, bytes]:
        sent = list[Any]()

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        pairs = [(key.lower().encode(), value.encode()) for key, value in headers(token(number)).items()]
        scope = {
            "type": "http",
            "method": "PUT",
            "path": "/",
            "raw_path": b"/",
            "root_path": "",
            "scheme": "http",
        }
        rest = {"query_string": b"", "headers": pairs, "http_version": "1.1", "server": None, "client": None}
        asyncio.run(app({**scope, **rest}, receive, send))
        return sent[0]["status"], sent[1]["body"]

    assert ask(1) == (200, b"written")
    database.fence.seal(token(2))
    status, body = ask(1)
    assert status == 412 and json.loads(body)["highest"] == 2
    assert ask(2) == (200, b"written")
    assert database.written() == [1, 2]


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name in the base
        """Nothing."""


def test_a_real_client_and_a_real_server(site: Site, tmp_path: Path) -> None:
    """Of the standard library, with a real lease: the header arrives, and after a takeover it is refused."""
    fence = FileFence("jobs/ü 1", tmp_path / "state")

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        fence.write(environ["leases.fencing_token"], environ["wsgi.input"].read(4))
        start_response("204 No Content", [])
        return []

    server = make_server("127.0.0.1", 0, WsgiFencingMiddleware(app, lock=fence.name), handler_class=_Quiet)
    serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    serving.start()

    def put(lease: Any, body: bytes) -> int:
        request = urllib.request.Request(
            f"http://127.0.0.1:{server.server_port}/", body, headers(lease), method="PUT"
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    try:
        with site.store() as store:
            lock = store.lock(fence.name, fences=[fence], holder="web 1; ü")
            with lock as first:
                assert put(first, b"one1") == 204
            with lock as second:
                assert put(first, b"late") == 412
                assert put(second, b"two2") == 204
        assert (tmp_path / "state").read_bytes() == b"two2"
    finally:
        server.shutdown()
        serving.join(PATIENCE)
        server.server_close()


def test_a_validator_may_be_the_fence(colour: str, site: Site) -> None:
    """Then the lock's store is asked: 412 for whoever does not hold now, 409 for a token without a holder."""
    with site.store() as store:
        world = World(colour, fence=Validator(store, "job"))
        lease = store.lock("job").acquire()
        assert world.ask("POST", Token.of(lease)).status == 200
        assert world.ask("POST", Token("job", lease.token)).status == 409
        late = Token.of(lease)
        lease.release()
        answer = world.ask("POST", late)
        assert (answer.status, answer.problem["reason"]) == (412, "not current")


def test_headers_are_of_a_lease_or_a_token() -> None:
    """One header, in ASCII."""
    assert headers(Token("ü", 3)) == {"Fencing-Token": "3;name=%C3%BC"}
    with pytest.raises(ConfigurationError):
        headers("3")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"fence": object()},
        {"lock": ""},
        {"lock": "a", "fence": MemoryFence("b")},
        {"lock": "a", "methods": "POST"},
        {"lock": "a", "methods": ["post"]},
        {"lock": "a", "methods": 5},
        {"fence": SqlFence("a")},
    ],
    ids=lambda options: "-".join(options) or "nothing",
)
def test_what_cannot_work_is_refused_at_once(colour: str, options: dict[str, Any]) -> None:
    """When the application is put together, not at the first request."""
    with pytest.raises(ConfigurationError):
        World(colour, **options)
