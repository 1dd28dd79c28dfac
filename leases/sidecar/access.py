"""Who may give the leadership away: by default only what runs beside the sidecar."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from starlette.requests import Request

# A proxy on this host has the address of this host, and speaks for somebody else.
_FORWARDED: Final = ("forwarded", "x-forwarded-", "x-envoy-", "x-real-ip", "via")
_SAME_SITE: Final = ("same-origin", "none")


@dataclass(frozen=True, slots=True)
class Access:
    """What a request needs so that it may change who leads.

    A peer on the loopback interface, that no proxy stands between; a Host that names this host, because a
    page of somebody's that a browser on this host shows can have its own name point here; and no Origin but
    our own, because such a page may send POST requests anywhere.

    Attributes:
        remote: take it from any peer. Then whoever can reach the port can depose the leader.
    """

    remote: bool = False

    def refusal(self, request: Request) -> str | None:
        """Why a request may not; None if it may."""
        headers = request.headers
        origin, host = headers.get("origin"), headers.get("host", "")
        if origin is not None and _host_of(origin) != host:
            return f"a page of {origin} asks for it; only the sidecar's own page may"
        if headers.get("sec-fetch-site", "none") not in _SAME_SITE:
            return "a page of another site asks for it; only the sidecar's own page may"
        if self.remote:
            return None
        # Whoever asks for this host, by any of its names, has the first address. Another one was taken on
        # purpose: 127.0.0.6 by the proxy of a mesh, for what comes from other pods.
        if request.client is None or not _is_loopback(request.client.host, first=True):
            return "it is taken from this host alone; ask there, or start with --allow-remote-control"
        if any(name.startswith(_FORWARDED) for name in headers):
            return "it came through a proxy; ask directly, or start with --allow-remote-control"
        if not _names_this_host(host):
            return f'the Host "{host}" is not this one; ask for http://localhost'
        return None


def _host_of(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


def _names_this_host(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname
    except ValueError:
        return False
    return name == "localhost" or (name is not None and _is_loopback(name))


def _is_loopback(address: str, *, first: bool = False) -> bool:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)  # An IPv4 peer of a socket for both.
    own = mapped or found
    return str(own) in ("127.0.0.1", "::1") if first else own.is_loopback
