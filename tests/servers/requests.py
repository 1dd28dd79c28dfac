"""Requests in a client's bytes: of HTTP/1.1, of gRPC over HTTP/2, of ZooKeeper; for counting them.

One object sees what one connection's client sends, in pieces as they come.
"""

from __future__ import annotations

from typing import Final

import hpack

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PING, CONTINUATION = 0, 1, 6, 9
ACK, END_HEADERS, PADDED, PRIORITY = 1, 4, 8, 32
LONGEST_NUMBER: Final = 18  # of a chunk's length, in hexadecimal digits and more

# Operations by ZooKeeper's numbers. A session's first frame has none: it is `connect`.
OPERATIONS: Final = {
    1: "create",
    2: "delete",
    3: "exists",
    4: "getData",
    5: "setData",
    6: "getACL",
    7: "setACL",
    8: "getChildren",
    9: "sync",
    11: "ping",
    12: "getChildren",
    13: "check",
    14: "multi",
    15: "create",
    18: "removeWatches",
    19: "create",
    21: "create",
    100: "auth",
    101: "setWatches",
    102: "sasl",
    105: "setWatches",
    106: "addWatch",
    -11: "closeSession",
}


class _Frames:
    """Keeps what is not whole yet."""

    def __init__(self) -> None:
        self._have = bytearray()

    def feed(self, sent: bytes) -> list[str]:
        """The names of the requests that are known with these bytes."""
        self._have += sent
        names: list[str] = []
        while self._have:
            taken, name = self._one(self._have)
            if not taken:
                break
            del self._have[:taken]
            names += [name] if name is not None else []
        return names

    def _one(self, have: bytearray) -> tuple[int, str | None]:
        """The length of the first whole thing (0: more is needed), and the request's name if it is one."""
        raise NotImplementedError


class Http1(_Frames):
    """`PUT /v1/txn`: a method and a path without its query."""

    def __init__(self) -> None:
        super().__init__()
        self._body = 0
        self._chunked = False

    def _one(self, have: bytearray) -> tuple[int, str | None]:
        if self._body:
            taken = min(self._body, len(have))
            self._body -= taken
            return taken, None
        if self._chunked:
            return self._chunk(have), None
        end = have.find(b"\r\n\r\n")
        if end < 0:
            return 0, None
        line, *rest = bytes(have[:end]).split(b"\r\n")
        fields = dict(field.lower().split(b":", 1) for field in rest)
        self._body = int(fields.get(b"content-length", b"0"))
        self._chunked = b"chunked" in fields.get(b"transfer-encoding", b"")
        method, target, _ = line.decode("latin-1").split(" ", 2)
        return end + 4, f"{method} {target.partition('?')[0]}"

    def _chunk(self, have: bytearray) -> int:
        end = have.find(b"\r\n", 0, LONGEST_NUMBER)
        if end < 0:
            return 0
        length = int(bytes(have[:end]).partition(b";")[0], 16)
        if length:
            self._body = length + 2
            return end + 2
        closed = have.find(b"\r\n\r\n", end)
        self._chunked = closed < 0
        return 0 if closed < 0 else closed + 4


class Grpc(_Frames):
    """`KV/Txn`: service and method, without the service's package, for each call begun.

    Of a stream each message after the first is `Watch/Watch message`; the client's own pings are `PING`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._begun = False
        self._decoder = hpack.Decoder()
        self._block = b""
        self._calls: dict[int, tuple[str, int]] = {}

    def _one(self, have: bytearray) -> tuple[int, str | None]:
        if not self._begun:
            self._begun = len(have) >= len(PREFACE)
            return (len(PREFACE) if self._begun else 0), None
        length = int.from_bytes(have[:3], "big")
        if len(have) < 9 + length:
            return 0, None
        kind, flags, stream = have[3], have[4], int.from_bytes(have[5:9], "big")
        return 9 + length, self._frame(kind, flags, stream, bytes(have[9 : 9 + length]))

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> str | None:
        if kind == PING and not flags & ACK:
            return "PING"
        if kind in (HEADERS, CONTINUATION):
            self._block += _unpadded(flags, payload) if kind == HEADERS else payload
            return self._call(stream) if flags & END_HEADERS else None
        if kind == DATA and payload and stream in self._calls:
            name, messages = self._calls[stream]
            self._calls[stream] = name, messages + 1
            return f"{name} message" if messages else None
        return None

    def _call(self, stream: int) -> str:
        fields = {str(name): str(value) for name, value, *_ in self._decoder.decode(self._block)}
        self._block = b""
        name = fields.get(":path", "?").lstrip("/").rpartition(".")[2]
        self._calls[stream] = name, 0
        return name


def _unpadded(flags: int, payload: bytes) -> bytes:
    padding = payload[0] if flags & PADDED else 0
    start = (1 if flags & PADDED else 0) + (5 if flags & PRIORITY else 0)
    return payload[start : len(payload) - padding]


class ZooKeeper(_Frames):
    """`setData`: an operation; `connect` for the first frame of a connection."""

    def __init__(self) -> None:
        super().__init__()
        self._begun = False

    def _one(self, have: bytearray) -> tuple[int, str | None]:
        length = int.from_bytes(have[:4], "big")
        if len(have) < 4 + length:
            return 0, None
        if not self._begun:
            self._begun = True
            return 4 + length, "connect"
        number = int.from_bytes(have[8:12], "big", signed=True)
        return 4 + length, OPERATIONS.get(number, f"operation {number}")
