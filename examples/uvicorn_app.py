"""A job that an asyncio web application runs beside its requests: in one worker of all that there are.

    uvicorn --workers 3 --app-dir examples uvicorn_app:app

The lifespan runs in every worker. uvicorn ends its workers by a signal, which leaves Python no time for its
own exit, so leadership is resigned where the lifespan ends; another worker has it at once then. Where the
worker that leads is killed, another takes over after the ttl.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from leases import leader_only

TTL = float(os.environ.get("TTL", "15"))  # seconds after which another takes over from one that was killed


@leader_only("refresh", ttl=TTL)
async def refresh() -> None:
    began = time.monotonic()
    await asyncio.sleep(0.05)
    print(f"{os.getpid()} refreshed from {began:.3f} to {time.monotonic():.3f}", flush=True)


async def keep_refreshing() -> None:
    while True:
        await asyncio.sleep(0.25)
        try:
            await refresh()
        except Exception:  # A lost lease, or a store that refuses: the next round may fare better.
            logging.exception("not refreshed")


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncGenerator[None]:
    task = asyncio.create_task(keep_refreshing())
    yield
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    await refresh.resign_async(timeout=1)  # when nothing runs any more


async def who(_: Request) -> PlainTextResponse:
    return PlainTextResponse("this worker leads\n" if refresh.is_leader else "this worker stands by\n")


app = Starlette(routes=[Route("/", who)], lifespan=lifespan)
