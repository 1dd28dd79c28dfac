"""Where a sidecar listens."""

from __future__ import annotations

import argparse
import errno
import os
import re
import socket
from contextlib import suppress
from typing import Any, Final, NamedTuple

from leases.errors import LeasesError

PORT: Final = 4040
_STALLED_MS: Final = 30_000  # after which the kernel ends a connection whose reader takes nothing
_ADDRESS: Final = re.compile(r"(?:(?:\[([0-9A-Za-z:.%]+)\]|([^:\[\]/\s]*)):)?(\d{1,5})", re.ASCII)


class Address(NamedTuple):
    """Where to listen; an empty host is every address of this machine, port 0 one that is free."""

    host: str
    port: int


class CannotListen(LeasesError):
    """The port is not to be had."""


def address(text: str) -> Address:
    """Host and port from `localhost:4040`, `:4040`, `[::1]:4040` or `4040`."""
    match = _ADDRESS.fullmatch(text)
    if match is None or int(match[3]) > 65535:
        raise argparse.ArgumentTypeError(
            f'"{text}" is not HOST:PORT; write localhost:{PORT}, or :{PORT} for every address'
        )
    host = match[1] or match[2]
    return Address("localhost" if host is None else host, int(match[3]))


def listen(where: Address) -> list[socket.socket]:
    """Sockets that listen there; several where a name has several addresses, as localhost may.

    Raises:
        CannotListen: somebody else has the port, or the system refuses it.
    """
    try:
        return _all_of(where) if where.host else [_everywhere(where.port)]
    except OSError as error:
        known = isinstance(error.errno, int) and error.errno > 0 and not isinstance(error, socket.gaierror)
        why = os.strerror(error.errno) if known and error.errno else error.strerror or error
        raise CannotListen(
            f"cannot listen on {where.host or '*'}:{where.port}: {why}; "
            f"pass another address, as in --http localhost:{PORT + 1}"
        ) from error


def place(one: socket.socket) -> str:
    """The URL of a listening socket."""
    host, port = one.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _all_of(where: Address) -> list[socket.socket]:
    found = socket.getaddrinfo(where.host, where.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    made: list[socket.socket] = []
    for family, _, _, _, (host, *_) in sorted(found):  # IPv4 first.
        port = made[0].getsockname()[1] if made else where.port
        try:
            made.append(_listener(family, (host, port)))
        except OSError as error:
            if not (made and error.errno == errno.EADDRNOTAVAIL):  # IPv6 may be in /etc/hosts and off.
                for one in made:
                    one.close()
                raise
    return made


def _everywhere(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        with suppress(OSError):  # It may be switched off; if the port is taken, it is so below.
            return _listener(socket.AF_INET6, ("::", port), both=True)
    return _listener(socket.AF_INET, ("0.0.0.0", port))  # noqa: S104


def _listener(family: int, where: tuple[Any, int], *, both: bool = False) -> socket.socket:
    made = socket.create_server(where, family=family, dualstack_ipv6=both)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # What is accepted inherits it.
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _STALLED_MS)
    return made
