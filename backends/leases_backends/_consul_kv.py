"""Locks in Consul's key/value store: which key a name has, and what the store's answers say of it."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlencode

from leases.contract import Slot, is_beside
from leases.errors import RecordRefused, StoreDenied, StoreError, StoreUnavailable
from leases.record import decode
from leases_backends._consul_http import Answer, NotSent, Wire

# Some releases of Consul (1.21.5) take no other characters in a key, some no ".." in it, all of them mend
# paths with "//" or "/./": so whatever is not plain is written as "=" and two digits. A byte's spelling
# depends on what is before it alone, so that a prefix of a name is spelt as a prefix of its key.
_ODD: Final = re.compile(rb"[^A-Za-z0-9,_./-]|(?:^|(?<=/))[./]|(?<=\.)\.")
_SPELT: Final = re.compile(rb"=([0-9A-F]{2})")

Entry = dict[str, Any]


def spelt(name: str) -> str:
    """A name, or a path, as part of a key."""
    return _ODD.sub(lambda odd: b"=%02X" % odd[0][0], name.encode()).decode()


def read_back(spelling: str) -> str | None:
    """The name that is spelt so; None where no name is."""
    try:
        name = _SPELT.sub(lambda code: bytes((int(code[1], 16),)), spelling.encode()).decode()
    except UnicodeDecodeError:
        return None
    return name if spelt(name) == spelling else None


class Space:
    """The keys of one URL.

    Args:
        wire: the way to the servers.
        base: the path of the URL.
        where: the query's `dc`, `ns` and `partition`, as far as they are given.
    """

    def __init__(self, wire: Wire, base: str, where: Mapping[str, str]) -> None:
        self.wire = wire
        self.prefix = f"{spelt(base)}/"
        self._where = dict(where)

    def key(self, name: str) -> str:
        """The key of a name."""
        return self.prefix + spelt(name)

    def target(self, path: str, **query: str | int) -> str:
        """A path of the API, with a query."""
        parameters = {**self._where, **query}
        return f"/v1/{path}?{urlencode(parameters)}" if parameters else f"/v1/{path}"

    def write(self, operations: list[dict[str, Any]]) -> bytes:
        """The body of a transaction."""
        inside = {
            key: self._where[option]
            for option, key in (("ns", "Namespace"), ("partition", "Partition"))
            if option in self._where
        }
        return json.dumps([{"KV": {**operation, **inside}} for operation in operations]).encode()

    def read(self, name: str, timeout: float) -> Slot:
        """What stands under a name; raises as `Backend.read`."""
        answer = self.wire.ask("GET", self.target(f"kv/{self.key(name)}"), None, timeout)
        return self.slot(name, answer)

    def slot(self, name: str, answer: Answer) -> Slot:
        """What the answer to a question for one key shows.

        Raises:
            StoreError: it is no such answer.
            RecordRefused: what stands there is not ours.
        """
        if self.is_absence(answer):
            return Slot(name, None, None, answer.index, answer.index)
        for entry in self.entries(answer):
            return self.slot_of(name, entry)
        raise self.trouble(answer)

    def is_absence(self, answer: Answer) -> bool:
        """Whether the store knows nothing there: its own way to say so has an index."""
        return answer.status == 404 and answer.index > 0

    def checked(self, answer: Answer) -> Answer:
        """The answer to a question for keys, if it is one.

        Raises:
            StoreError: it is not.
        """
        if answer.status == 200 or self.is_absence(answer):
            return answer
        raise self.trouble(answer)

    def entries(self, answer: Answer) -> list[Entry]:
        """What an answer lists, of whatever owner.

        Raises:
            StoreError: it lists nothing.
        """
        if self.is_absence(self.checked(answer)):
            return []
        try:
            found = json.loads(answer.body)
        except ValueError:
            found = None
        if isinstance(found, list) and all(_is_entry(entry) for entry in found):
            return found
        raise self.trouble(answer)

    def slot_of(self, name: str, entry: Entry) -> Slot:
        """What one entry shows.

        Raises:
            RecordRefused: it is not ours.
        """
        body, index = _value(entry), entry["ModifyIndex"]
        if entry.get("Session"):
            raise RecordRefused(name, "a session has locked its key, with Consul's own locks", body)
        return Slot(name, index, decode(name, body), index, index, body)

    def read_bytes(self, name: str, timeout: float) -> bytes | None:
        """The bytes under a name, whatever they are; None where there are none. Raises as `Backend.read`."""
        answer = self.wire.ask("GET", self.target(f"kv/{self.key(name)}"), None, timeout)
        for entry in self.entries(answer):
            return _value(entry)
        return None

    def scan(self, prefix: str, timeout: float) -> list[Slot | Exception]:
        """Every record whose name begins so, by name; raises as `Backend.read`."""
        until = time.monotonic() + timeout
        answer = self.wire.ask("GET", self.target(f"kv/{self.key(prefix)}", recurse=""), None, timeout)
        entries = self.entries(answer)
        if not entries:  # To whom nothing may be shown the same is said; of one key it is said.
            self.checked(
                self.wire.ask("GET", self.target(f"kv/{self.key(prefix)}"), None, until - time.monotonic())
            )
        if answer.filtered:
            raise StoreDenied(f"{self.wire.shown}: the token may not read all of them; {self.rule}")
        return [shown for _, shown in sorted(self._shown(entries), key=lambda pair: pair[0])]

    def _shown(self, entries: list[Entry]) -> Iterator[tuple[str, Slot | Exception]]:
        for entry in entries:
            rest = entry["Key"].removeprefix(self.prefix)
            name = read_back(rest)
            # Consul's own interface makes keys for folders.
            if not rest or (name is not None and is_beside(name)):
                continue
            try:
                if name is None:
                    raise RecordRefused(rest, "its key spells no name", _value(entry))
                yield name, self.slot_of(name, entry)
            except RecordRefused as refused:
                yield refused.name, refused

    def trouble(self, answer: Answer) -> StoreError:
        """The error that an answer means, when it is not the one that was hoped for."""
        shown, status, text = self.wire.shown, answer.status, answer.text
        if status in (429, 503) and (status == 429 or "rate limit" in text):
            return NotSent(
                f"{shown} has no room for more requests ({text}); ask less often, or raise its limits"
            )
        if status == 500 and "No cluster leader" in text:  # Said before anything is executed.
            return NotSent(f"{shown} has no leader; see that a majority of its servers runs")
        if status == 500 and "No path to datacenter" in text:
            return NotSent(f"{shown}: its servers know no such datacenter; see that dc= names one")
        if "ACL not found" in text:
            return StoreDenied(
                f"{shown} does not know the token; give one that stands, as by token_file=FILE"
            )
        if status == 403 or "Permission denied" in text:
            return StoreDenied(f"{shown} says: {text}; {self.rule}")
        if status >= 500 or status == 409:
            return StoreUnavailable(f"{shown} answers {status}: {text or 'nothing else'}; try again")
        if "HTTP request to an HTTPS server" in text:
            return StoreDenied(f"{shown}: it uses TLS there; write consuls: instead of consul:")
        said = f": {text}" if text else ""
        return StoreDenied(
            f"{shown} answers {status}{said}; see that it is Consul's HTTP API, and what it takes"
        )

    @property
    def rule(self) -> str:
        """What to do for someone who may not do what the library needs."""
        given = "give the token" if self.wire.token() else "give a token (token_file=FILE) with"
        return f'{given} the rule key_prefix "{self.prefix}" {{ policy = "write" }}'


def _is_entry(entry: object) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("Key"), str):
        return False
    try:
        _value(entry)
    except (KeyError, TypeError, ValueError):
        return False
    return isinstance(entry.get("ModifyIndex"), int)


def _value(entry: Entry) -> bytes:
    return base64.b64decode(entry["Value"] or "", validate=True)
