"""Who holds: a name for people, made of the host (in Kubernetes: the pod) and the process.

It decides nothing. Two processes may carry the same holder name; what tells claims apart is their id.
"""

from __future__ import annotations

import os

from leases.record import HOLDER_BYTES


def default_holder() -> str:
    """``host:pid``, or ``pod:pid`` where the pod's name is known; read anew, because a fork changes it."""
    host = os.environ.get("POD_NAME") or _host_name()
    text = "".join(c for c in host if c.isprintable()) or "host"
    return f"{text.encode()[: HOLDER_BYTES - 16].decode(errors='ignore')}:{os.getpid()}"


def _host_name() -> str:
    if hasattr(os, "uname"):
        return os.uname().nodename
    return os.environ.get("COMPUTERNAME", "host")
