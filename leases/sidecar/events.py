"""Server-sent events: the state first, then every change, as long as somebody reads them."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar

from starlette.responses import Response

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Coroutine

    from starlette.types import Receive, Scope, Send

    from leases.sidecar.board import Board, Listener
    from leases.sidecar.state import State

HEARTBEAT: Final = 15.0  # seconds without a change after which a comment shows that the line is alive
WRITE_SECONDS: Final = 10.0  # for a reader to take one event, once the buffers on the way are full
RETRY_MS: Final = 1000  # how soon a browser is to come back

T = TypeVar("T")


class EventStream(Response):
    """An answer that ends when the reader leaves, is too slow, or all is over; nothing is left behind then.

    Args:
        board: tells of the changes.
        stream: names the events of this process: `id` is this, a dash and the number of the change.
        beat: seconds after which, without a change, the state is sent again as an event of the type `beat`;
            None sends a comment every 15 seconds instead.
    """

    media_type = "text/event-stream"

    def __init__(self, board: Board, stream: str, beat: float | None = None) -> None:
        super().__init__(headers={"x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._board, self._stream, self._beat = board, stream, beat

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, event by event."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b""})
            return
        with self._board.listener() as listener:
            await while_connected(receive, self._write(listener, send))

    async def _write(self, listener: Listener, send: Send) -> None:
        with suppress(TimeoutError):  # Too slow: what is not read is not kept.
            await _send(send, f"retry: {RETRY_MS}\n\n", more=True)
            async for text in self._texts(listener):
                await _send(send, text, more=True)
            await _send(send, "", more=False)

    async def _texts(self, listener: Listener) -> AsyncGenerator[str, None]:
        while True:
            try:
                async with asyncio.timeout(HEARTBEAT if self._beat is None else self._beat):
                    change = await listener.next()
            except TimeoutError:
                yield self._sign_of_life()
                continue
            if change is None:
                return
            yield f"id: {self._stream}-{change.number}\n{self._data(change.state)}"

    def _sign_of_life(self) -> str:
        if self._beat is None:
            return ":\n\n"
        return f"event: beat\n{self._data(self._board.candidate.state())}"

    def _data(self, state: State) -> str:
        return f"data: {json.dumps(state.body(self._board.candidate.now()))}\n\n"


async def _send(send: Send, text: str, *, more: bool) -> None:
    async with asyncio.timeout(WRITE_SECONDS):
        await send({"type": "http.response.body", "body": text.encode(), "more_body": more})


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T | None:
    """What the work gives; it is cancelled when the client leaves, and the answer is None then."""
    working, gone = asyncio.create_task(work), asyncio.create_task(_until_gone(receive))
    try:
        await asyncio.wait((working, gone), return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        gone.cancel()
        working.cancel()
        await asyncio.gather(gone, working, return_exceptions=True)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
