"""What the holder and its guardian say to each other: orders down one pipe, reports up another.

A report and all orders but `GO` fit into what a pipe takes as one piece.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

NEVER: Final = float("inf")

ORDER: Final = struct.Struct("=cI")  # which, and the length of what follows
LIMITS: Final = struct.Struct("=dd")
NUMBER: Final = struct.Struct("=i")
PREPARE: Final = b"P"  # fork another command, that waits
TELL: Final = b"T"  # LIMITS
GO: Final = b"G"  # LIMITS, then the environment variables: let it go
SIGNAL: Final = b"S"  # NUMBER, for the group
STOP: Final = b"X"  # SIGTERM for all, politely

REPORT: Final = struct.Struct("=cii")
READY: Final = b"R"  # the process group that waits
STOPPED: Final = b"S"  # by which signal the leader was stopped
ENDED: Final = b"E"  # the status of the leader, and the errno for which it never began, or 0
ALONE: Final = b"A"  # it was stopped without an order, because there was none in time
GONE: Final = b"N"  # nobody lives of it, and of what it started


class Limits(NamedTuple):
    """When the command is told to stop, and when it is killed, on the holder's clock."""

    term_at: float
    kill_at: float


def split_orders(data: bytes) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """The whole orders that have come, each with what follows, and the beginning of one that has not."""
    orders: list[tuple[bytes, bytes]] = []
    while len(data) >= ORDER.size:
        what, length = ORDER.unpack_from(data)
        end = ORDER.size + length
        if len(data) < end:
            break
        orders.append((what, data[ORDER.size : end]))
        data = data[end:]
    return orders, data
