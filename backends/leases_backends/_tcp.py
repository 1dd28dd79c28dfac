"""A TCP connection within a time limit, whatever its host is called and however many addresses that has.

The usual way gives each address of a host the whole time, one after the other, and has no limit for looking
up its name, which takes as long as a name server is silent.
"""

from __future__ import annotations

import os
import socket
import threading
from time import monotonic
from typing import Any, Final

_LEAST: Final = 0.001  # seconds; a timeout of zero would mean not to wait at all

_Found = list[tuple[Any, Any, int, str, Any]]


def connected(host: str, port: int, timeout: float) -> socket.socket:
    """A connection to the first address of a host that takes it; each has its share of the time left.

    Args:
        host: a name, or an address without brackets.
        port: the port.
        timeout: seconds for all of it.

    Raises:
        socket.gaierror: the name has no address.
        OSError: no address takes it; a TimeoutError where time ran out.
    """
    until = monotonic() + timeout
    addresses = _addresses(host, port, timeout)
    trouble = OSError(f"{host} has no address")
    for turn, (family, kind, protocol, _, address) in enumerate(addresses):
        share = (until - monotonic()) / (len(addresses) - turn)
        try:
            return _opened(family, kind, protocol, address, max(share, _LEAST))
        except OSError as error:
            trouble = error
    try:
        raise trouble
    finally:
        del trouble  # It knows this frame, which would know it.


def _opened(family: int, kind: int, protocol: int, address: Any, timeout: float) -> socket.socket:
    opened = socket.socket(family, kind, protocol)
    try:
        opened.settimeout(timeout)
        opened.connect(address)
    except BaseException:
        opened.close()
        raise
    return opened


def _addresses(host: str, port: int, timeout: float) -> _Found:
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):  # It is a name.
        return _Lookup.of(host, port).result(timeout)


class _Lookup:
    """Looking up a name, once for all who ask meanwhile, in a thread that nobody has to wait for."""

    def __init__(self, host: str, port: int) -> None:
        self._key = host, port
        self._done = threading.Event()
        self._found: _Found = []
        self._error: tuple[Any, ...] | None = None

    @classmethod
    def of(cls, host: str, port: int) -> _Lookup:
        """The one that is under way, or a new one."""
        mine = cls(host, port)
        lookup = _lookups.setdefault(mine._key, mine)
        if lookup is mine:
            try:
                threading.Thread(target=mine._run, name="leases-lookup", daemon=True).start()
            except RuntimeError:  # The interpreter is ending: no thread can be started any more.
                mine._run()
        return lookup

    def result(self, timeout: float) -> _Found:
        """What was found, unless it takes too long; then it goes on for whoever comes next."""
        if not self._done.wait(max(timeout, 0.0)):
            raise TimeoutError(f"looking up {self._key[0]} took too long")
        if self._error is not None:
            raise socket.gaierror(*self._error)
        return self._found

    def _run(self) -> None:
        try:
            self._found = socket.getaddrinfo(*self._key, type=socket.SOCK_STREAM)
        except OSError as error:
            self._error = error.args
        except UnicodeError:
            self._error = socket.EAI_NONAME, "no host can have this name"
        finally:
            _lookups.pop(self._key, None)
            self._done.set()


_lookups: Final[dict[tuple[str, int], _Lookup]] = {}

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_lookups.clear)  # The threads are the parent's.
