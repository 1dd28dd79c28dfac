"""A sidecar as a process: its port, its signals, its last words."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from leases import aio
from leases.cli import exits
from leases.errors import LeasesError
from leases.sidecar.port import place

if TYPE_CHECKING:
    import socket
    from asyncio import TimerHandle, Transport

    from starlette.applications import Starlette

    from leases.cli.console import Console
    from leases.sidecar.candidate import Candidate
    from leases.sidecar.http import Site
    from leases.sidecar.state import State

ENDING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
GOODBYE_SECONDS: Final = 2  # for answers that are under way at the end
CONNECTIONS: Final = 512  # or half of the files that this process may open: the store needs some, too
ASKING_SECONDS: Final = 10.0  # for a client to say what it wants; it is given up within twice as many
_SILENCE_SECONDS: Final = 3.0  # from the start, after which it is said that the store has not answered yet


class Server(uvicorn.Server):
    """Signals are ours: the lease comes first, the connections after it. So is the exit code."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin; whoever awaits `serve` sees that it has ended at once, where that failed."""
        try:
            await super().startup(sockets)
        except SystemExit:
            self.should_exit = True


class Connection(H11Protocol):
    """A client's connection, which ends when nothing is asked on it, or when there are too many.

    Each is an open file of the process that renews the lease. Of itself uvicorn waits for a request for ever.
    """

    _before: object = ...
    _timer: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """It has begun."""
        super().connection_made(transport)
        if len(self.connections) > (self.limit_concurrency or CONNECTIONS):
            transport.abort()
        else:
            self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """It has ended; nothing is kept of it."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def _expect(self) -> None:
        """Look whether anything was asked since the last time."""
        asked = self.cycle
        if asked is self._before and (asked is None or asked.response_complete):
            self.transport.abort()
            return
        self._before = asked
        self._timer = self.loop.call_later(ASKING_SECONDS, self._expect)


def serve(application: Starlette, sockets: Sequence[socket.socket], console: Console) -> int:
    """Serve until a signal, or until the candidate can take part no more; the exit code."""
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # What went wrong in an answer is said by us.
    for who in ("leases", "asyncio"):
        logging.getLogger(who).addHandler(_Lines(application.state.site.candidate, console))
        logging.getLogger(who).propagate = False
    most = _most_connections()
    config = uvicorn.Config(
        application, lifespan="on", log_config=None, access_log=False, proxy_headers=False, ws="none",
        http=Connection, server_header=False, limit_concurrency=most,
        backlog=most // 4,  # So many are taken at a time, before anybody looks at how many there are.
        timeout_graceful_shutdown=GOODBYE_SECONDS,
    )  # fmt: skip
    return asyncio.run(_serve(Server(config), application.state.site, sockets, console))


def _most_connections() -> int:
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return CONNECTIONS if files == resource.RLIM_INFINITY else min(CONNECTIONS, files // 2)


async def _serve(
    server: uvicorn.Server, site: Site, sockets: Sequence[socket.socket], console: Console
) -> int:
    candidate = site.candidate
    voice = Voice(candidate, console)
    site.board.on_change(voice.say)
    _announce(candidate, sockets, console)
    asyncio.get_running_loop().call_later(_SILENCE_SECONDS, voice.complain)
    serving = asyncio.create_task(server.serve(list(sockets)))
    bell, signalled = aio.Bell(), list[int]()
    _on_signals(signalled, bell)
    with candidate.rings(bell.ring):
        serving.add_done_callback(lambda _: bell.ring())
        while not (signalled or candidate.error or serving.done()):
            await bell.wait(None)
    held = candidate.elector.is_leader
    confirmed = await site.close()
    if held and not confirmed:
        console.say(
            "unconfirmed",
            f'the store did not confirm the release of "{candidate.name}"; its lease runs out by itself',
        )
    elif held:
        console.say("released", f'released "{candidate.name}"', name=candidate.name)
    server.should_exit = True
    await serving
    error = candidate.error
    if error is None and not signalled:
        error = RuntimeError("the server has ended by itself; start it again")
    if error is None:
        return exits.OK
    console.say("error", str(error))
    return exits.code_of(error) if isinstance(error, LeasesError) else exits.UNAVAILABLE


def _on_signals(signalled: list[int], bell: aio.Bell) -> None:
    """The first is a wish; with the second there is no time, and the lease runs out by itself."""

    def hear(number: int) -> None:
        if signalled:
            os._exit(exits.SIGNALLED + number)
        signalled.append(number)
        bell.ring()

    loop = asyncio.get_running_loop()
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, hear, number)


def _announce(candidate: Candidate, sockets: Sequence[socket.socket], console: Console) -> None:
    places = [place(one) for one in sockets]
    state = candidate.state()
    console.say(
        "serving",
        f'serving "{candidate.name}" on {", ".join(places)} as {candidate.id}, store {state.backend}',
        name=candidate.name,
        id=candidate.id,
        backend=state.backend,
        http=places,
    )


class _Lines(logging.Handler):
    """What the library logs, in one line each; tracebacks are for those who can mend the program."""

    def __init__(self, candidate: Candidate, console: Console) -> None:
        super().__init__(logging.WARNING)
        self._candidate, self._console = candidate, console

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is None or error is not self._candidate.error:  # Which is said at the end.
            why = "" if error is None else f": {error}"
            self._console.say("log", f"{record.getMessage()}{why}")


class Voice:
    """Says every change on stderr."""

    def __init__(self, candidate: Candidate, console: Console) -> None:
        self._candidate, self._console = candidate, console
        self._before: State | None = None

    def complain(self) -> None:
        """The store gives no answer, unless it does."""
        if self._candidate.state().reachable or self._candidate.stopping:
            return
        backend, why = self._candidate.state().backend, self._candidate.trouble
        more = "" if why is None else f": {why}"
        self._console.say("unreachable", f"{backend} gives no answer{more}", backend=backend)

    def say(self, state: State) -> None:
        """What is new."""
        before, self._before = self._before or replace(state, name="", is_leader=False, token=None), state
        lock, say = self._candidate.name, self._console.say
        if state.reachable and not before.reachable:
            say("reachable", f"{state.backend} answers", backend=state.backend)
        elif before.reachable and not state.reachable:
            self.complain()
        if (state.name, state.token) == (before.name, before.token):
            return
        if before.is_leader and not state.is_leader:
            say("lost", f'leads "{lock}" no more', name=lock, token=before.token)
        if state.is_leader:
            say("elected", f'leads "{lock}", token {state.token}', name=lock, token=state.token)
        elif state.name:
            text = f'"{lock}" is led by {state.name}, token {state.token}'
            say("leader", text, name=lock, leader=state.name, token=state.token)
        elif not before.is_leader:
            say("nobody", f'nobody is known to lead "{lock}"', name=lock)
