"""What can be found out about a Consul: its leader, version and servers, and what our token may do."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from leases.contract import Finding, Verdict
from leases.errors import StoreError
from leases_backends._consul_http import Answer
from leases_backends._consul_kv import Space

NAME: Final = "leases-examination"  # nothing is ever written under it
OLDEST: Final = (1, 18)  # the oldest version that the tests run on

_GOOD, _DOUBTFUL, _BAD = Verdict.GOOD, Verdict.DOUBTFUL, Verdict.BAD


def examine(space: Space, timeout: float) -> Iterator[Finding]:
    """Ask one thing after the other, within the time allowed for all of them."""
    until = time.monotonic() + timeout

    def get(path: str, **query: str) -> Answer:
        return space.wire.ask("GET", space.target(path, **query), None, until - time.monotonic())

    try:
        reach = _leader(space, get("status/leader"))
    except StoreError as error:
        reach = Finding("reach", _BAD, str(error))
    yield reach
    if reach.verdict is _BAD:
        return
    for subject, look in (
        ("version", _version),
        ("health", _health),
        ("token", _token),
        ("permission to read", _may_read),
        ("permission to list", _may_list),
        ("permission to write", _may_write),
    ):
        try:
            yield look(space, get, until)
        except StoreError as error:
            yield Finding(subject, _BAD, str(error))


_Get = Callable[..., Answer]


def _leader(space: Space, answer: Answer) -> Finding:
    leader = _parsed(answer)
    if answer.status != 200 or not isinstance(leader, str):
        return Finding("reach", _BAD, str(space.trouble(answer)))
    if not leader:
        return Finding(
            "reach",
            _BAD,
            f"{space.wire.shown} answers, but its servers have no leader",
            "see that most of them run",
        )
    return Finding("reach", _GOOD, f"{space.wire.shown} answers; its servers are led by {leader}")


def _version(space: Space, get: _Get, until: float) -> Finding:
    answer = get("agent/self")
    found = _parsed(answer)
    said = found.get("Config", {}).get("Version") if isinstance(found, dict) else None
    if not isinstance(said, str):
        return Finding(
            "version",
            _DOUBTFUL,
            "it is not told to this token",
            'to see it, add the rule agent_prefix "" { policy = "read" }',
        )
    numbers = tuple(int(part) for part in said.split("+")[0].split("-")[0].split(".")[:2] if part.isdecimal())
    if numbers < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        return Finding(
            "version", _DOUBTFUL, f"Consul {said} is older than was tested", f"upgrade to {oldest} or newer"
        )
    return Finding("version", _GOOD, f"Consul {said}")


def _health(space: Space, get: _Get, until: float) -> Finding:
    answer = get("operator/autopilot/health")
    found = _parsed(answer)
    if isinstance(found, dict) and isinstance(found.get("Healthy"), bool):
        servers, spare = len(found.get("Servers") or ()), found.get("FailureTolerance")
        text = f"{_count(servers)}, of which {spare} may fail"
        if not found["Healthy"]:
            return Finding(
                "health",
                _DOUBTFUL,
                f"{text}; not all are healthy",
                "look at `consul operator raft list-peers`",
            )
        if not spare:
            return Finding("health", _DOUBTFUL, text, "use three servers or five, so that one may fail")
        return Finding("health", _GOOD, text)
    peers = _parsed(get("status/peers"))
    if not isinstance(peers, list):
        return Finding("health", _DOUBTFUL, "it cannot be seen", 'to see it, add the rule operator = "read"')
    if len(peers) < 3:
        return Finding(
            "health", _DOUBTFUL, f"{_count(len(peers))}, of which none may fail", "use three servers or five"
        )
    return Finding("health", _GOOD, _count(len(peers)))


def _token(space: Space, get: _Get, until: float) -> Finding:
    answer = get("acl/token/self")
    if answer.status == 401:
        return Finding("token", _DOUBTFUL, "its ACLs are off: whoever reaches it may write", "switch ACLs on")
    if answer.status != 200:
        return Finding("token", _BAD, str(space.trouble(answer)))
    found = _parsed(answer)
    expires = found.get("ExpirationTime") if isinstance(found, dict) else None
    if expires:
        return Finding(
            "token", _DOUBTFUL, f"it expires at {expires}", "name a file that is renewed in token_file="
        )
    if not space.wire.token():
        return Finding("token", _DOUBTFUL, "none is given; what is allowed is what everybody is", "give one")
    return Finding("token", _GOOD, "it stands, and does not expire")


def _may_read(space: Space, get: _Get, until: float) -> Finding:
    space.checked(get(f"kv/{space.key(NAME)}"))
    return Finding("permission to read", _GOOD, f"keys under {space.prefix}")


def _may_list(space: Space, get: _Get, until: float) -> Finding:
    answer = space.checked(get(f"kv/{space.prefix}", keys=""))
    if answer.filtered:
        return Finding("permission to list", _DOUBTFUL, "not all keys are shown to the token", space.rule)
    return Finding("permission to list", _GOOD, f"keys under {space.prefix}")


def _may_write(space: Space, get: _Get, until: float) -> Finding:
    # A question that only those who may write may ask, and which writes nothing.
    body = space.write([{"Verb": "check-not-exists", "Key": space.key(NAME)}])
    answer = space.wire.ask("PUT", space.target("txn"), body, until - time.monotonic())
    if answer.status == 403 or (answer.status == 409 and b"Permission denied" in answer.body):
        return Finding(
            "permission to write", _BAD, f"keys under {space.prefix} may not be written", space.rule
        )
    if answer.status not in (200, 409):
        raise space.trouble(answer)
    return Finding("permission to write", _GOOD, f"keys under {space.prefix}")


def _parsed(answer: Answer) -> Any:
    try:
        return json.loads(answer.body)
    except ValueError:
        return None


def _count(servers: int) -> str:
    return f"{servers} server{'' if servers == 1 else 's'}"
