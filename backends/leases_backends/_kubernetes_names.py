"""The name of a lock as the name of a Lease object, and back.

An object's name is lower case letters, digits, dots and dashes, at most 253 of them. A lock whose name is
one keeps it, so that `kubectl get lease my-app` shows it, and so that others who lock by that name meet us.
Any other name becomes `x--` and its letters and digits, with every other byte as a dash and two hex digits;
what is then too long ends in a hash instead. Names that begin with `x--` themselves are written so too, and
thus no two locks share an object.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

LONGEST: Final = 253

_PREFIX: Final = "x--"
_LABEL: Final = "[a-z0-9]([a-z0-9-]*[a-z0-9])?"
_VALID: Final = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_ESCAPED: Final = re.compile("([a-z0-9]|-[0-9a-f]{2})+")
_PLAIN: Final = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789")
_DIGEST: Final = 64  # hex digits of SHA-256


@lru_cache(1024)
def object_name(lock: str) -> str:
    """The name of the object that a lock is kept in."""
    if len(lock) <= LONGEST and _VALID.fullmatch(lock) and not lock.startswith(_PREFIX):
        return lock
    raw = lock.encode()
    escaped = "".join(chr(byte) if byte in _PLAIN else f"-{byte:02x}" for byte in raw)
    if len(_PREFIX) + len(escaped) <= LONGEST:
        return _PREFIX + escaped
    from hashlib import sha256

    # An escaped name never has two dashes in a row: behind them is the hash of a name that a note tells.
    readable = escaped[: LONGEST - len(_PREFIX) - 2 - _DIGEST].rstrip("-")
    return f"{_PREFIX}{readable}--{sha256(raw).hexdigest()}"


def lock_name(name: str, note: str | None = None) -> str | None:
    """The lock that an object is for; None if no lock has such an object.

    Args:
        name: the object's.
        note: the lock's name as it stands beside the record, needed where the object's holds a hash.
    """
    if not name.startswith(_PREFIX):
        return name
    escaped = name.removeprefix(_PREFIX)
    lock = _unescaped(escaped) if _ESCAPED.fullmatch(escaped) else note
    try:
        return lock if lock is not None and object_name(lock) == name else None
    except UnicodeEncodeError:
        return None


def is_hashed(name: str) -> bool:
    """Whether an object's name does not tell the lock's."""
    return name.startswith(_PREFIX) and "--" in name.removeprefix(_PREFIX)


def _unescaped(escaped: str) -> str | None:
    raw = re.sub("-([0-9a-f]{2})", lambda found: chr(int(found[1], 16)), escaped).encode("latin-1")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None
