"""The sidecar's application in a uvicorn of one's own: it resigns as that ends, whoever still reads."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from http.client import IncompleteRead
from pathlib import Path

import pytest

from leases_command import PATIENCE, Shop, until
from sidecars import ask, events
from stores import STORES, Site

PAGE = Path(__file__).parent.parent / "leases" / "sidecar" / "sidecar.md"
COMMAND = "uvicorn --timeout-graceful-shutdown 2 service:application"
SERVED = """
from leases.sidecar import Candidate, app

application = app(Candidate("job", ttl=60))
"""
MOUNTED = """
from starlette.applications import Starlette
from starlette.routing import Mount
from leases.sidecar import Candidate, app

elector = app(Candidate("job", ttl=60))
application = Starlette(
    routes=[Mount("/elector", app=elector)], lifespan=lambda _: elector.router.lifespan_context(elector)
)
"""
OWN_HANDLER = """
import asyncio, signal
from contextlib import asynccontextmanager
from starlette.applications import Starlette
from starlette.routing import Mount
from leases.sidecar import Candidate, app

elector = app(Candidate("job", ttl=60))

@asynccontextmanager
async def lifespan(_):
    theirs, loop, closing = signal.getsignal(signal.SIGTERM), asyncio.get_running_loop(), set()

    def hear(number, frame):
        loop.call_soon_threadsafe(lambda: closing.add(loop.create_task(elector.state.site.close())))
        theirs(number, frame)

    signal.signal(signal.SIGTERM, hear)
    async with elector.router.lifespan_context(elector):
        yield

application = Starlette(routes=[Mount("/elector", app=elector)], lifespan=lifespan)
"""

pytestmark = pytest.mark.waits


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    """Commands of the test, on a file."""
    made = Shop(tmp_path, Site(STORES[0], "memory:unused"))
    yield made
    made.close()


class Server:
    """A uvicorn in a process, with a module of ours, that leads.

    Args:
        shop: where it runs.
        module: its text.
        command: as it is typed.
        path: where the sidecar's own paths begin.
    """

    def __init__(self, shop: Shop, module: str, command: str, path: str = "") -> None:
        (shop.folder / "service.py").write_text(module)
        program, *words = command.split()
        self.process = shop.start("--port", "0", *words, program=(sys.executable, "-m", program))
        assert self.process.stderr is not None
        found = (re.search(r"running on (http://\S+)", line) for line in self.process.stderr)
        self.url = next(match[1] for match in found if match)
        until(lambda: ask(self.url, f"{path}/healthz").status == 200)
        until(lambda: shop.holder() is not None)


@pytest.mark.parametrize(
    ("module", "command", "path"),
    [
        (SERVED, COMMAND, ""),
        (MOUNTED, "uvicorn service:application", "/elector"),
        (OWN_HANDLER, "uvicorn service:application", "/elector"),
    ],
    ids=["served", "mounted", "own handler"],
)
def test_a_server_that_is_told_to_end_resigns_first(shop: Shop, module: str, command: str, path: str) -> None:
    """No reader has to leave for that; each is told, and its stream ends."""
    one = Server(shop, module, command, path)
    with events(one.url, f"{path}/events") as stream:
        while not next(stream).data["is_leader"]:
            pass
        one.process.send_signal(signal.SIGTERM)
        told = list(stream)
        one.process.wait(PATIENCE)
        assert not told[-1].data["is_leader"]
        assert shop.holder() is None


def test_a_server_that_ends_by_itself_waits_for_its_readers_as_long_as_it_is_told(shop: Shop) -> None:
    """Nothing shows that before it is over, so the command of the page sets a limit."""
    assert COMMAND in PAGE.read_text()
    one = Server(shop, SERVED, f"{COMMAND} --limit-max-requests 20")
    with events(one.url) as stream:
        assert next(stream).kind == "message"
        with suppress(ConnectionError):
            while True:
                ask(one.url)
        with suppress(ConnectionError, IncompleteRead):
            list(stream)
        one.process.wait(PATIENCE)
        assert shop.holder() is None
