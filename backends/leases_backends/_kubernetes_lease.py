"""A Lease object as a slot, and a claim as a Lease object.

A Lease has no field for a value, so our record is an annotation, and the spec says the same in the words that
client-go and `kubectl` understand. Beside the record stands the spec that was written with it. As long as it
still matches, the record is the truth. If it does not, another tool wrote last: then the spec is the claim,
and of the record only the token still counts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Any, Final

from leases.contract import Slot
from leases.errors import RecordRefused
from leases.record import TTL_LEAST, TTL_MOST, Claim, State, decode
from leases_backends._kubernetes_names import is_hashed, object_name

GROUP: Final = "coordination.k8s.io"
RECORD: Final = "leases/record"
SPEC: Final = "leases/spec"
NAME: Final = "leases/name"

_LABELS: Final = {"app.kubernetes.io/managed-by": "leases"}
# Older electors keep a record of their own there, on whatever kind of object they were told to use.
_ELDERS: Final = "control-plane.alpha.kubernetes.io/leader"
_HOLDER_SHOWN: Final = 128
_MOST_TRANSITIONS: Final = 2**31 - 1
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_INSTANT: Final = 253402300799.0  # the end of the year 9999, the last that the API can write


@dataclass(frozen=True, slots=True)
class Version:
    """One state of one object.

    Attributes:
        uid: of the object; another one of the same name has another.
        number: the object's resourceVersion.
        whole: the object as it was read. Whoever writes over it gives back what is not ours.
    """

    uid: str
    number: str
    whole: Mapping[str, Any] = field(repr=False, compare=False, hash=False)


def order_of(number: str) -> int | None:
    """A resourceVersion as a number that grows with every write; None where it is something else."""
    return int(number) if number.isascii() and number.isdecimal() else None


def missing(name: str, number: str) -> Slot:
    """The slot of an object that is not there, by the resourceVersion of the answer that said so."""
    order = order_of(number)
    return Slot(name, None, order=order, floor=order or 0)


def slot_of(name: str, whole: Mapping[str, Any], foreign_wait: float) -> Slot:
    """What an object says of a lock.

    Args:
        name: the lock.
        whole: the object, as the API server sent it.
        foreign_wait: how many times its leaseDurationSeconds a claim of another tool is good for.

    Raises:
        RecordRefused: it says nothing that could be relied on.
    """
    metadata = whole["metadata"]
    annotations: Mapping[str, str] = metadata.get("annotations") or {}
    spec: Mapping[str, Any] = whole.get("spec") or {}
    body, mirrored = _bytes(annotations.get(RECORD)), _bytes(spec)
    history = decode(name, body) if RECORD in annotations else None
    if _ELDERS in annotations:
        raise RecordRefused(name, "an elector of another kind uses the object", _bytes(annotations[_ELDERS]))
    if is_hashed(object_name(name)) and annotations.get(NAME, name) != name:
        raise RecordRefused(name, f"its annotation {NAME} names another lock", _bytes(annotations[NAME]))
    ours = annotations.get(SPEC, "").encode(errors="surrogatepass") == mirrored
    if history is not None and (ours or _was_emptied(spec, history, annotations)):
        claim = history
    else:
        claim, body = _of_another(name, spec, history, foreign_wait), mirrored
    order = order_of(metadata["resourceVersion"])
    floor = max(order or 0, claim.token or 0)
    return Slot(name, Version(metadata["uid"], metadata["resourceVersion"], whole), claim, order, floor, body)


def _was_emptied(spec: Mapping[str, Any], history: Claim, annotations: Mapping[str, str]) -> bool:
    """Whether an elector that held before us has released what we hold now: its write names no version.

    It leaves the number of transitions as we wrote it. Had anybody held after us, it would be another; where
    there is none any more, nobody knows.
    """
    if spec.get("holderIdentity") or not history.held:
        return False
    try:
        written = json.loads(annotations[SPEC])["leaseTransitions"]
    except (KeyError, TypeError, ValueError):
        return True
    return spec.get("leaseTransitions") in (None, written)


def _of_another(name: str, spec: Mapping[str, Any], history: Claim | None, foreign_wait: float) -> Claim:
    """The claim that another tool made in the spec: nobody's of ours, so it has no id."""
    body = _bytes(spec)
    if spec.get("strategy") or spec.get("preferredHolder"):
        raise RecordRefused(name, "its leader is chosen by the control plane (strategy is set)", body)
    holder = str(spec.get("holderIdentity") or "")
    token = history.token if history is not None and history.token is not None else 0
    beat = blake2b(body, digest_size=8).hexdigest()
    acquired, renewed = _instant(spec.get("acquireTime")), _instant(spec.get("renewTime"))
    if not holder:
        return Claim("", "", beat, 1.0, token, State.FREE, acquired, renewed)
    seconds = spec.get("leaseDurationSeconds")
    if type(seconds) is not int or seconds <= 0:
        raise RecordRefused(name, f"{holder!r} holds it for no known time (leaseDurationSeconds)", body)
    ttl = seconds * foreign_wait
    if not TTL_LEAST <= ttl <= TTL_MOST:
        raise RecordRefused(name, f"{holder!r} holds it for {seconds} s, longer than any lease of ours", body)
    return Claim(holder[:_HOLDER_SHOWN], "", beat, ttl, token, State.HELD, acquired, renewed)


def object_of(name: str, namespace: str, seen: Slot, claim: Claim, body: bytes) -> dict[str, Any]:
    """The object that writes a claim over a slot, with everything that is not ours as it was seen.

    Args:
        name: the lock.
        namespace: where it is.
        seen: what is written over; without a version, the object is created.
        claim: what to write.
        body: its record.
    """
    called = object_name(name)
    metadata: dict[str, Any]
    if isinstance(seen.version, Version):
        whole = seen.version.whole
        # Without its list of who manages what, which is long, the server goes on with the one that it has.
        metadata = {key: value for key, value in whole["metadata"].items() if key != "managedFields"}
        before: Mapping[str, Any] = whole.get("spec") or {}
    else:
        metadata, before = {"name": called, "namespace": namespace, "labels": _LABELS}, {}
    spec = _spec(before, seen, claim)
    notes = {RECORD: body.decode(), SPEC: _bytes(spec).decode()}
    if is_hashed(called):
        notes[NAME] = name
    metadata["annotations"] = dict(metadata.get("annotations") or {}) | notes
    return {"apiVersion": f"{GROUP}/v1", "kind": "Lease", "metadata": metadata, "spec": spec}


def _spec(before: Mapping[str, Any], seen: Slot, claim: Claim) -> dict[str, Any]:
    """The claim in the words of a Lease's spec.

    The holder carries the claim's id, because client-go takes whoever has its own identity for itself. It
    sees renewals by the spec alone, so that `renewTime` has to grow with each, whatever the clock does.
    """
    same = seen.claim is not None and seen.claim.held and seen.claim.id == claim.id != ""
    renewed = _microseconds(claim.renewed)
    if same or not claim.held:
        renewed = max(renewed, _microseconds(_instant(before.get("renewTime"))) + 1)
    transitions = before.get("leaseTransitions")
    transitions = transitions if type(transitions) is int else 0
    if claim.held and not same and seen.version is not None:  # The first holder is no transition.
        transitions = transitions % _MOST_TRANSITIONS + 1
    return dict(before) | {
        "holderIdentity": f"{claim.holder}_{claim.id}" if claim.held else "",
        "leaseDurationSeconds": max(1, math.ceil(claim.ttl)) if claim.held else 1,
        "acquireTime": _time(_microseconds(claim.acquired)),
        "renewTime": _time(renewed),
        "leaseTransitions": transitions,
    }


def _bytes(value: Any) -> bytes:
    """What to show, and to compare, of a text or of a part of an object."""
    if value is None:
        return b""
    text = value if isinstance(value, str) else _encode(dict(value))
    return text.encode(errors="surrogatepass")


_encode: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, sort_keys=True).encode


def _instant(text: object) -> float:
    """Unix seconds of a time as the API writes it; 0.0 for anything else."""
    try:
        return (datetime.fromisoformat(str(text)) - _EPOCH) / timedelta(seconds=1)
    except (TypeError, ValueError):
        return 0.0


def _microseconds(instant: float) -> int:
    return round(min(max(instant, 0.0), _LAST_INSTANT) * 1_000_000)


def _time(microseconds: int) -> str:
    instant = _EPOCH + timedelta(microseconds=min(microseconds, int(_LAST_INSTANT * 1_000_000)))
    return instant.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
