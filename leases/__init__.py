"""Distributed locks and leader election on leases, over any store that can compare and swap.

    from leases import Lock

    with Lock("my-lock") as lease:
        write(row, token=lease.token)

Start with `Lock`; `connect` shares one store on purpose; `leases.machine` is the protocol.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leases.elector import Elector
    from leases.errors import (
        AcquireTimeout,
        ConfigurationError,
        ForeignToken,
        LeaseLost,
        LeasesError,
        MalformedToken,
        NotCurrent,
        NotLeader,
        RecordRefused,
        ResourceBusy,
        StaleToken,
        StoreDenied,
        StoreError,
        StoreUnavailable,
        TokenRefused,
        WrongToken,
    )
    from leases.health import Health
    from leases.leader import leader_only
    from leases.lease import Lease
    from leases.lock import Lock
    from leases.multilease import MultiLease
    from leases.multilock import MultiLock
    from leases.observer import Leader
    from leases.semaphore import Semaphore, SlotLease
    from leases.store import Status, Store, connect
    from leases.terms import Terms
    from leases.upkeep import Pruned

__all__ = [
    "AcquireTimeout",
    "ConfigurationError",
    "Elector",
    "ForeignToken",
    "Health",
    "Leader",
    "Lease",
    "LeaseLost",
    "LeasesError",
    "Lock",
    "MalformedToken",
    "MultiLease",
    "MultiLock",
    "NotCurrent",
    "NotLeader",
    "Pruned",
    "RecordRefused",
    "ResourceBusy",
    "Semaphore",
    "SlotLease",
    "StaleToken",
    "Status",
    "Store",
    "StoreDenied",
    "StoreError",
    "StoreUnavailable",
    "Terms",
    "TokenRefused",
    "WrongToken",
    "connect",
    "leader_only",
]

__version__ = "0.1.0"

# Loaded when first asked for: `import leases` costs next to nothing, and a program pays for what it uses.
_WHERE = {
    "Elector": "leases.elector",
    "Health": "leases.health",
    "Leader": "leases.observer",
    "Lease": "leases.lease",
    "Lock": "leases.lock",
    "MultiLease": "leases.multilease",
    "MultiLock": "leases.multilock",
    "Pruned": "leases.upkeep",
    "Semaphore": "leases.semaphore",
    "SlotLease": "leases.semaphore",
    "Status": "leases.store",
    "Store": "leases.store",
    "Terms": "leases.terms",
    "connect": "leases.store",
    "leader_only": "leases.leader",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'leases' has no attribute {name!r}")
    value = getattr(import_module(_WHERE.get(name, "leases.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
