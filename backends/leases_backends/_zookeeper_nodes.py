"""Where a lock's record stands in ZooKeeper's tree, and what a node shows of it.

A record is one persistent node, right below one parent for all names. It has one child, its *birth*: an empty
node with a random name. ZooKeeper counts a node's version from 0 whenever it is created, so a version alone
cannot tell a record from its predecessor under the same name. A birth dies with its record, and a swap that
checks it along with the version cannot hit a record that was created anew.
"""

from __future__ import annotations

import re
import secrets
from typing import Any, Final, NamedTuple

from leases.contract import Slot
from leases.record import Claim, decode

BIRTH: Final = "birth-"

# ZooKeeper takes no control characters, private ones or surrogates: none beyond U+FFFF, which Java spells so.
_ILLEGAL: Final = "\0-\x1f\x7f-\x9f\ud800-\uf8ff\ufff0-\uffff\U00010000-\U0010ffff"
_ESCAPED: Final = re.compile(f"[%/{_ILLEGAL}]")
_PATH: Final = re.compile(f"[^/{_ILLEGAL}]+(/[^/{_ILLEGAL}]+)*")


def node_of(name: str) -> str:
    """The node's name for a lock's: readable, one to one, and taken by every server."""
    if name in (".", ".."):
        return name.replace(".", "%2E")
    return _ESCAPED.sub(_escape, name)


def name_of(node: str) -> str | None:
    """The lock's name for a node's; None where no lock has that node."""
    from urllib.parse import unquote_to_bytes

    try:
        name = unquote_to_bytes(node).decode()
    except UnicodeDecodeError:
        return None
    return name if name and node_of(name) == node else None


def is_path(path: str) -> bool:
    """Whether a path without its first slash can be the parent of our records."""
    parts = path.split("/")
    return bool(_PATH.fullmatch(path)) and parts[0] != "zookeeper" and not {".", ".."} & set(parts)


def ancestors(path: str) -> tuple[str, ...]:
    """The path and all that is above it, the root first."""
    parts = path.strip("/").split("/")
    return ("/", *("/" + "/".join(parts[: index + 1]) for index in range(len(parts))))


def new_birth() -> str:
    """A name for the child that comes and goes with one record."""
    return BIRTH + secrets.token_hex(8)


class Node(NamedTuple):
    """A record's node as a read or a write shows it.

    Attributes:
        czxid: the transaction that created it.
        version: how often it was written since, as ZooKeeper counts.
        mzxid: the transaction that wrote it last; these numbers are the ensemble's, and only grow.
        body: its bytes.
    """

    czxid: int
    version: int
    mzxid: int
    body: bytes

    @classmethod
    def of(cls, body: bytes | None, stat: Any) -> Node:
        """From what the client library returns."""
        return cls(stat.czxid, stat.version, stat.mzxid, body or b"")

    @property
    def stamp(self) -> tuple[int, int]:
        """What stands for the version in a slot: not used again even where the node is deleted."""
        return self.czxid, self.version

    def slot(self, name: str, claim: Claim | None = None) -> Slot:
        """The same as the protocol sees it; pass the claim where it is known.

        Raises:
            RecordRefused: the record is not ours.
        """
        claim = claim or decode(name, self.body)
        token = 0 if claim.token is None else claim.token
        return Slot(name, self.stamp, claim, self.mzxid, max(self.mzxid, token), self.body)


def _escape(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode())
