"""The status page: one file, which shows a state and keeps itself up to date from the sidecar alone.

Whatever a store says is text on it: the server escapes it, the script sets it as text, and the policy that
comes with the page lets no other script, style or origin in.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import resources
from typing import Any, Final

_PLACE: Final = re.compile(r"\{\{(\w+)\}\}")
_WHOSE: Final = {
    "ours": "This replica leads.",
    "other": "Another replica leads.",
    "none": "Nobody leads.",
    "unknown": "The store does not answer, so the leader is not known.",
}
_NAMES: Final = {"none": "Nobody", "unknown": "Unknown"}


def page(body: Mapping[str, Any], history: Sequence[Mapping[str, Any]] = (), *, control: bool = False) -> str:
    """The page as HTML; without its script it shows what it begins with.

    Args:
        body: the state, as `State.body` makes it.
        history: who has led, newest first, as `Board.history` makes it.
        control: whether who reads it may make this candidate resign.
    """
    kind, known = _kind(body), bool(body["name"])
    name = body["name"] or _NAMES[kind]
    texts = {
        "state": json.dumps(dict(body)),
        "control": "yes" if control else "no",
        "title": f"{name} · {body['lock']}",
        "lock": body["lock"],
        "id": body["id"],
        "backend": body["backend"],
        "kind": kind,
        "name": name,
        "whose": _WHOSE[kind],
        "left": f"Expires in {body['expires_in']:.1f} s unless renewed" if known else "",
        "token": str(body["token"]) if known else "–",
        "store": "in reach" if body["reachable"] else "out of reach",
    }
    parts = {key: html.escape(text) for key, text in texts.items()}
    parts |= {"since": _moment(body["since"]), "history": "".join(_lines(history))}
    return _PLACE.sub(lambda place: parts[place[1]], _source())


@functools.cache
def headers() -> dict[str, str]:
    """What is sent with the page: it may run its own script and style, and talk to where it came from."""
    script, style = (_digest(tag, _source()) for tag in ("script", "style"))
    policy = (
        f"default-src 'none'; script-src '{script}'; style-src '{style}'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return {"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer"}


def _kind(body: Mapping[str, Any]) -> str:
    if body["name"]:
        return "ours" if body["is_leader"] else "other"
    return "none" if body["reachable"] else "unknown"


def _lines(history: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    for one in history:
        until = "until now" if one["until"] is None else f"until {_moment(one['until'])}"
        yield (
            f"<li><span>{html.escape(one['name'])}</span><span>token {one['token']}</span>"
            f"<small>{_moment(one['since'])}</small><small>{until}</small></li>"
        )


def _moment(seconds: float | None) -> str:
    """An instant of wall time, for who has no script that would know the reader's own way to write it."""
    try:
        at = None if seconds is None else datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):  # What some leader's clock says, no calendar need have.
        at = None
    if at is None:
        return "–"
    exact = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return f'<time datetime="{exact}" title="{exact}">{at:%Y-%m-%d %H:%M:%S} UTC</time>'


@functools.cache
def _source() -> str:
    return resources.files("leases.sidecar").joinpath("ui.html").read_text(encoding="utf-8")


def _digest(tag: str, source: str) -> str:
    """What a policy names an inline element by."""
    (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", source, re.DOTALL)
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"
