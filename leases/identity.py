"""Who holds: a name for people, made of the host (in Kubernetes: the pod) and the process.

It decides nothing. Two processes may carry the same holder name; what tells claims apart is their id.
"""

from __future__ import annotations

import os

from leases.record import HOLDER_BYTES


def default_holder() -> str:
    """``host:pid``, or ``pod:pid`` where ``$POD_NAME`` is set; found once for each process."""
    global _known
    if _known is None:
        _known = f"{_host()}:{os.getpid()}"
    return _known


_known: str | None = None


def _host() -> str:
    host = os.environ.get("POD_NAME") or _host_name()
    text = "".join(c for c in host if c.isprintable()) or "host"
    return text.encode()[: HOLDER_BYTES - 16].decode(errors="ignore")


def _host_name() -> str:
    if hasattr(os, "uname"):
        return os.uname().nodename
    return os.environ.get("COMPUTERNAME", "host")


def _forget() -> None:
    global _known
    _known = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
