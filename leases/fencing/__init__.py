"""Fencing: resources that refuse what an earlier tenure sends too late.

No lock can call back a message that is on its way, or stop a process between its look at the clock and its
write. A resource can, if it compares the token in the same step as it writes. How much that is worth
depends on what exactly is compared: see `Level`.

    fence = SqlFence("orders", connect=pool.connection)
    with Lock("orders", fences=[fence]) as lease:          # sealed before the acquisition is reported
        with pool.connection() as connection:
            fence.check(connection, lease)                 # refused, or committed together with the write
            connection.execute("UPDATE orders SET …")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leases.errors import (
        ForeignToken,
        MalformedToken,
        NotCurrent,
        ResourceBusy,
        StaleToken,
        TokenRefused,
        WriteUnknown,
    )
    from leases.fencing.file import FileFence
    from leases.fencing.guarded import GuardedKey, Written
    from leases.fencing.http import FencingMiddleware, WsgiFencingMiddleware, headers, refusal
    from leases.fencing.level import Level
    from leases.fencing.memory import MemoryFence
    from leases.fencing.sql import SqlFence
    from leases.fencing.token import Token
    from leases.fencing.validator import Validator

__all__ = [
    "FencingMiddleware",
    "FileFence",
    "ForeignToken",
    "GuardedKey",
    "Level",
    "MalformedToken",
    "MemoryFence",
    "NotCurrent",
    "ResourceBusy",
    "SqlFence",
    "StaleToken",
    "Token",
    "TokenRefused",
    "Validator",
    "WriteUnknown",
    "Written",
    "WsgiFencingMiddleware",
    "headers",
    "refusal",
]

# Loaded when first asked for: who fences a table needs no middleware.
_WHERE = {
    "FencingMiddleware": "leases.fencing.http",
    "FileFence": "leases.fencing.file",
    "GuardedKey": "leases.fencing.guarded",
    "Level": "leases.fencing.level",
    "MemoryFence": "leases.fencing.memory",
    "SqlFence": "leases.fencing.sql",
    "Token": "leases.fencing.token",
    "Validator": "leases.fencing.validator",
    "Written": "leases.fencing.guarded",
    "WsgiFencingMiddleware": "leases.fencing.http",
    "headers": "leases.fencing.http",
    "refusal": "leases.fencing.http",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'leases.fencing' has no attribute {name!r}")
    value = getattr(import_module(_WHERE.get(name, "leases.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
