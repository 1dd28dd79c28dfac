"""Sidecars under test: served from a thread of the test, or as `leases elector` in a process of its own."""

from __future__ import annotations

import asyncio
import http.client
import itertools
import json
import socket
import subprocess
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
import uvicorn
from prometheus_client import CollectorRegistry

from leases import health, hub
from leases.contract import Backend, Notify, Slot, Watch
from leases.metrics import install
from leases.sidecar import Candidate, app
from leases.sidecar.port import Address, listen, place
from leases.sidecar.serving import Connection, Server
from leases_command import PATIENCE, Shop, until
from stores import Site
from stubborn import Stubborn, memory

TTL: Final = 1.5  # seconds, of those in a thread
_count = itertools.count()


@dataclass(frozen=True)
class Answer:
    """What came back: the status, the headers with small letters, the bytes."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """What the body says."""
        return json.loads(self.body)


def ask(url: str, path: str = "/", method: str = "GET", headers: Mapping[str, str] | None = None) -> Answer:
    """One request on a connection of its own."""
    parts = urlsplit(url)
    with closing(http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=PATIENCE)) as line:
        line.request(method, path, headers=dict(headers or {}))
        got = line.getresponse()
        return Answer(got.status, {key.lower(): value for key, value in got.getheaders()}, got.read())


@dataclass(frozen=True)
class Event:
    """One server-sent event; a comment has nothing."""

    id: str | None
    kind: str
    data: Any


@contextmanager
def events(url: str, path: str = "/events") -> Generator[Iterator[Event], None, None]:
    """The events of a sidecar, as they come."""
    parts = urlsplit(url)
    with closing(http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=PATIENCE)) as line:
        line.request("GET", path)
        got = line.getresponse()
        assert got.status == 200, got.read()
        assert got.getheader("content-type") == "text/event-stream; charset=utf-8"
        yield _parsed(got)
        if line.sock is not None:  # Else closing would read to the end of what has none.
            line.sock.close()


def _parsed(lines: http.client.HTTPResponse) -> Iterator[Event]:
    fields: dict[str, str] = {}
    for raw in lines:
        text = raw.decode().rstrip("\n")
        if text:
            key, _, value = text.partition(":")
            fields[key] = value.strip()
        elif fields:
            data = json.loads(fields["data"]) if "data" in fields else None
            event = Event(fields.get("id"), fields.get("event", "message"), data)
            retry, fields = "retry" in fields, {}
            if not retry:
                yield event


# ---- in a thread -----------------------------------------------------------------------------------


@pytest.fixture
def left_by_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Health is that of the whole process, where other tests may have left locks on clocks of their own."""
    left = set(hub.hubs())
    monkeypatch.setattr(health, "hubs", lambda: [each for each in hub.hubs() if each not in left])


def url_of(backend: Backend) -> str:
    """A URL by which this process reaches a backend that a test has made."""
    url = f"memory:sidecar-{next(_count)}"
    hub._by_url[url] = hub.Hub(backend, url)
    return url


class CutOff(Stubborn):
    """A store that, when it is down or hangs, gives no hints either."""

    def watch(self, seen: Slot, notify: Notify) -> Watch:
        return super().watch(seen, lambda slot: None if self.away else notify(slot))

    @property
    def away(self) -> bool:
        """Whether it is down or hangs."""
        return self.down or not self.gate.is_set()


class Beside:
    """A sidecar that is served from a thread.

    Args:
        store: the URL of its store.
        name: what is led.
        options: those of `Candidate`, and of `app`.
    """

    def __init__(self, store: str, name: str = "job", **options: Any) -> None:
        of_app = {key: options.pop(key) for key in _OF_APP & set(options)}
        self.candidate = Candidate(name, store=store, **options)
        self._registry = CollectorRegistry()
        self.app = app(self.candidate, registry=self._registry, **of_app)
        self._sockets = listen(Address("127.0.0.1", 0))
        self.url = place(self._sockets[0])
        config = uvicorn.Config(
            self.app, lifespan="on", log_config=None, ws="none", http=Connection, proxy_headers=False
        )
        self._server = Server(config)
        self._thread = threading.Thread(target=self._run, name="sidecar-under-test", daemon=True)
        self._thread.start()
        until(lambda: self._server.started or not self._thread.is_alive())

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self._server.serve(self._sockets)

    @property
    def site(self) -> Any:
        """What answers."""
        return self.app.state.site

    def ask(self, path: str = "/", method: str = "GET", headers: Mapping[str, str] | None = None) -> Answer:
        """One request."""
        return ask(self.url, path, method, headers)

    def state(self) -> Any:
        """What `/` says."""
        return self.ask().json

    def leads(self) -> bool:
        """What `/leader` says."""
        return self.ask("/leader").status == 200

    @property
    def connections(self) -> int:
        """How many there are."""
        return len(self._server.server_state.connections)

    def stop(self) -> None:
        """As a signal does it, without one."""
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self.site.close(), self._loop).result(PATIENCE)
        self._server.should_exit = True
        self._thread.join(PATIENCE)
        install(self._registry).uninstall()
        assert not self._thread.is_alive(), "it does not end"


_OF_APP: Final = {"access", "ready_leader_only", "validate_cache", "listeners", "routes"}


Make = Callable[..., Beside]


@pytest.fixture
def make(site: Site) -> Iterator[Make]:
    """Sidecars on one store, each with a connection of its own, as in processes of their own."""
    made: list[Beside] = []

    def sidecar(holder: str = "one", drain: float = 0, **options: Any) -> Beside:
        url = options.pop("store", None) or url_of(site.stubborn())
        made.append(Beside(url, holder=holder, ttl=TTL, drain=drain, **options))
        return made[-1]

    yield sidecar
    for one in made:
        one.stop()


@pytest.fixture
def leader(make: Make) -> Beside:
    """One that leads."""
    one = make("one")
    until(one.leads)
    return one


@pytest.fixture(scope="module")
def calm() -> Iterator[Beside]:
    """One that leads, for tests that change nothing."""
    one = Beside(url_of(memory()), holder="one", ttl=TTL, drain=0)
    until(one.leads)
    yield one
    one.stop()


# ---- as a process ------------------------------------------------------------------------------------


class Sidecar:
    """`leases elector` in a process.

    Attributes:
        process: it.
        said: the lines on its stderr, so far, as JSON.
        url: where it answers.
    """

    def __init__(self, shop: Shop, *words: str, name: str = "job", **options: Any) -> None:
        self.process: subprocess.Popen[str] = shop.start(
            "elector", name, "--http", "127.0.0.1:0", "--json", *words, **options
        )
        self.said: list[dict[str, Any]] = []
        threading.Thread(target=self._listen, daemon=True).start()
        until(lambda: self.said or self.process.poll() is not None)
        assert self.said, f"it ended with {self.process.returncode}"
        self.url: str = self.said[0]["http"][0]

    def _listen(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(json.loads(line))

    def heard(self, event: str) -> bool:
        """Whether it has said so."""
        return any(line["event"] == event for line in self.said)

    def ask(self, path: str = "/", method: str = "GET", headers: Mapping[str, str] | None = None) -> Answer:
        """One request."""
        return ask(self.url, path, method, headers)

    def state(self) -> Any:
        """What `/` says."""
        return self.ask().json

    def leads(self) -> bool:
        """What `/leader` says."""
        return self.ask("/leader").status == 200


def connection(url: str) -> socket.socket:
    """A bare connection to a sidecar."""
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname, parts.port), timeout=PATIENCE)
