"""The elector sidecar: leader election over HTTP, beside an application that cannot import Python.

`leases elector` serves it as a process of its own. Who has an ASGI server already mounts it there:

    from leases.sidecar import Candidate, app

    application = app(Candidate("scheduler", store="etcd://h1,h2/app"))

The application's lifespan starts and stops the candidate, so the server has to run it. But a server ends the
lifespan after its connections, and `/events` is open for as long as somebody reads it. In uvicorn a signal
to end is seen before that; elsewhere await ``application.state.site.close()`` when your program is told to
end, or give the server a time limit for its connections: ``uvicorn --timeout-graceful-shutdown 2``.

It needs ``pip install "leases[sidecar]"``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leases.sidecar.access import Access
    from leases.sidecar.candidate import Candidate, Mark
    from leases.sidecar.http import app
    from leases.sidecar.state import State

__all__ = ["Access", "Candidate", "Mark", "State", "app"]

_WHERE = {
    "Access": "leases.sidecar.access",
    "Candidate": "leases.sidecar.candidate",
    "Mark": "leases.sidecar.candidate",
    "State": "leases.sidecar.state",
    "app": "leases.sidecar.http",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)
