"""The record: what stands in a store under a lock's name, and its format.

Canonical JSON of at most 4 KiB, the same on every store. Whoever reads one must be able to trust every
field, so a record that is foreign, corrupt, absurd or of an unknown format is refused whole, and shown;
nothing here repairs or clamps. The two wall times are for people: nothing decides by them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Final

from leases.errors import ConfigurationError, RecordRefused

FORMAT: Final = 1
RECORD_BYTES: Final = 4096
NAME_BYTES: Final = 256
HOLDER_BYTES: Final = 256
TTL_LEAST: Final = 0.1
TTL_MOST: Final = 7 * 86400.0
TOKEN_BITS: Final = 128
ID_BITS: Final = 128
BEAT_BITS: Final = 64
RESERVED: Final = "leases."  # how the keys of metadata begin that the library itself shows, such as a rank


class State(Enum):
    """Whether a record keeps others out."""

    HELD = "held"
    FREE = "free"


@dataclass(frozen=True, slots=True)
class Claim:
    """One acquisition by one holder, as its record says it.

    Attributes:
        holder: who, readable.
        id: 128 random bits as hex, new with every acquisition; empty in a record that keeps the lock
            from everybody (a broken lock) or that nobody holds.
        beat: 64 random bits as hex, new with every send, a retry too.
        ttl: seconds for which the record lasts after its version was first seen.
        token: the fencing token; None until the first renewal writes it in, on stores where it is the
            revision of the acquiring write.
        state: held or free.
        acquired: wall time of the acquisition, Unix seconds, for people.
        renewed: wall time of this write, Unix seconds, for people.
        boot: identity of the host's boot, on a store that lives on one host.
        sent: CLOCK_BOOTTIME of that host, in seconds, just before this write was sent.
        successor: in a free record, the holder who is to have the lock next.
        metadata: what the holder wants others to see.
    """

    holder: str
    id: str
    beat: str
    ttl: float
    token: int | None = None
    state: State = State.HELD
    acquired: float = 0.0
    renewed: float = 0.0
    boot: str | None = None
    sent: float | None = None
    successor: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def held(self) -> bool:
        """Whether the record keeps others out."""
        return self.state is State.HELD

    def sent_here(self, boot: str | None) -> float | None:
        """When it was sent, if during this boot of this host; else None: its instants mean nothing here."""
        return self.sent if boot is not None and self.boot == boot else None

    def freed(self, *, token: int | None = None, successor: str | None = None) -> Claim:
        """The free record that follows this one where release leaves a record: it keeps the token alone."""
        return replace(
            self,
            id="",
            state=State.FREE,
            token=self.token if token is None else token,
            boot=None,
            sent=None,
            successor=successor,
            metadata={},
        )


def check_name(name: str) -> str:
    """Return a lock's name if every store can carry it.

    Raises:
        ConfigurationError: not a string, empty, over 256 bytes of UTF-8, or with control characters.
    """
    return _check_text("lock name", name, NAME_BYTES)


def check_key(key: str) -> str:
    """Return the name of a lock's key if every store can carry it; the limits are those of a lock's name.

    Raises:
        ConfigurationError: as for `check_name`.
    """
    return _check_text("key", key, NAME_BYTES)


def check_holder(holder: str) -> str:
    """Return a holder's name if it can be written; the limits are those of a lock's name.

    Raises:
        ConfigurationError: as for `check_name`.
    """
    return _check_text("holder", holder, HOLDER_BYTES)


def check_prefix(prefix: str) -> str:
    """Return how names of locks may begin; empty for all of them.

    Raises:
        ConfigurationError: as for `check_name`, but for being empty.
    """
    return "" if prefix == "" else _check_text("prefix", prefix, NAME_BYTES)


def check_metadata(metadata: Mapping[str, str] | None) -> dict[str, str]:
    """Return a copy of the metadata if it is text to text; its size is checked with the record's.

    Raises:
        ConfigurationError: a key or value that is not a string that UTF-8 can carry.
    """
    if metadata is not None and not isinstance(metadata, Mapping):
        raise ConfigurationError(
            f"metadata={metadata!r} maps no text to text; pass a dict such as {{'build': '17'}}"
        )
    copy: dict[str, str] = {}
    for key, value in (metadata or {}).items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise ConfigurationError(f"metadata {key!r}: {value!r} is not text; pass str(value)")
        copy[key] = value
    try:
        size = len(json.dumps(copy, ensure_ascii=False).encode())
    except UnicodeEncodeError:
        raise ConfigurationError("metadata holds text that UTF-8 cannot carry; clean it first") from None
    if size > RECORD_BYTES // 2:
        raise ConfigurationError(
            f"metadata of {size} bytes is over the {RECORD_BYTES // 2} that a record has room for; "
            "keep a reference in it and the rest elsewhere"
        )
    return copy


def check_ttl(ttl: float) -> float:
    """Return a ttl in seconds if a record may carry it: 0.1 s to 7 days.

    Raises:
        ConfigurationError: not a number, or outside the limits.
    """
    if isinstance(ttl, bool) or not isinstance(ttl, int | float) or not TTL_LEAST <= ttl <= TTL_MOST:
        raise ConfigurationError(
            f"ttl={ttl!r} is not between {TTL_LEAST} and {TTL_MOST:.0f} seconds; choose one that is"
        )
    return float(ttl)


def encode(claim: Claim) -> bytes:
    """The record's bytes: one claim has one encoding.

    Raises:
        ConfigurationError: over 4 KiB; nothing is cut off to make it fit.
    """
    token = "null" if claim.token is None else claim.token
    parts = [
        (
            f'{{"format":{FORMAT},"state":"{claim.state._value_}","holder":{_quote(claim.holder)},'
            f'"claim":"{claim.id}","token":{token},"beat":"{claim.beat}","ttl":{claim.ttl!r},'
            f'"acquired":{claim.acquired:.6f},"renewed":{claim.renewed:.6f}'
        )
    ]
    if claim.boot is not None:
        parts.append(f',"boot":{_quote(claim.boot)},"sent":{claim.sent!r}')
    if claim.successor is not None:
        parts.append(f',"successor":{_quote(claim.successor)}')
    if claim.metadata:
        parts.append(f',"metadata":{_encode_sorted(dict(claim.metadata))}')
    parts.append("}")
    body = "".join(parts).encode()
    if len(body) > RECORD_BYTES:
        raise ConfigurationError(
            f"the record would be {len(body)} bytes, over the {RECORD_BYTES} allowed; "
            "shorten the metadata or the holder"
        )
    return body


# Written by hand, because every swap does it and the general encoder costs three times as much.
_quote = json.encoder.encode_basestring
_encode_sorted = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, sort_keys=True).encode


def decode(name: str, body: bytes) -> Claim:
    """The claim that a record's bytes say.

    Raises:
        RecordRefused: not ours, corrupt, absurd, or of a format that this version does not know.
    """

    def refuse(why: str) -> RecordRefused:
        return RecordRefused(name, why, body)

    if len(body) > RECORD_BYTES:
        raise refuse(f"it is {len(body)} bytes long, over the {RECORD_BYTES} allowed")
    try:
        fields = json.loads(body.decode())
    except (ValueError, RecursionError):
        raise refuse("it is not JSON in UTF-8") from None
    if not isinstance(fields, dict) or "format" not in fields:
        raise refuse("it was not written by this library")
    if type(fields["format"]) is not int or fields["format"] != FORMAT:
        raise refuse(f"its format {fields['format']!r} is unknown to this version; upgrade leases here")
    try:
        return _claim(fields)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        what = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        raise refuse(what) from None


def _claim(fields: dict[str, Any]) -> Claim:
    state = State(_text(fields, "state"))
    claim = Claim(
        holder=_text(fields, "holder", HOLDER_BYTES),
        id=_hex(fields, "claim", ID_BITS),
        beat=_hex(fields, "beat", BEAT_BITS),
        ttl=check_ttl(fields["ttl"]),
        token=_token(fields["token"]),
        state=state,
        acquired=_number(fields, "acquired"),
        renewed=_number(fields, "renewed"),
        boot=_text(fields, "boot") if "boot" in fields else None,
        sent=_number(fields, "sent") if "boot" in fields else None,
        successor=_text(fields, "successor", HOLDER_BYTES) if "successor" in fields else None,
        metadata=check_metadata(_mapping(fields.get("metadata", {}))),
    )
    if not claim.beat:
        raise ValueError("its beat is empty")
    return claim


def _text(fields: dict[str, Any], key: str, limit: int = 128) -> str:
    value = fields[key]
    if not isinstance(value, str) or len(value.encode()) > limit:
        raise ValueError(f"its {key} is not text of at most {limit} bytes")
    return value


def _hex(fields: dict[str, Any], key: str, bits: int) -> str:
    value = _text(fields, key)
    if value and (len(value) != bits // 4 or not set(value) <= set("0123456789abcdef")):
        raise ValueError(f"its {key} is not {bits} bits in hex")
    return value


def _number(fields: dict[str, Any], key: str) -> float:
    value = fields[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"its {key} is not a finite number")
    return float(value)


def _token(value: Any) -> int | None:
    if value is None:
        return None
    if type(value) is not int or not 0 <= value < 1 << TOKEN_BITS:
        raise ValueError(f"its token is not null or an integer of at most {TOKEN_BITS} bits")
    return value


def _mapping(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ValueError("its metadata is not an object")
    return value


def _check_text(what: str, text: str, limit: int) -> str:
    if not isinstance(text, str):
        raise ConfigurationError(f"a {what} is text, not {type(text).__name__}; pass a str")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise ConfigurationError(f"the {what} {text!r} cannot be written as UTF-8; use another") from None
    if not 0 < size <= limit:
        advice = "shorten it" if size else "give one"
        raise ConfigurationError(f"a {what} is 1 to {limit} bytes of UTF-8, not {size}; {advice}")
    if not text.isprintable():
        raise ConfigurationError(f"the {what} {text!r} has unprintable characters; remove them")
    return text
