"""What can be found out about an ensemble, for whoever wants to keep locks in it."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any, Final

from kazoo.exceptions import NoAuthError, NoNodeError

from leases.contract import Finding, Verdict
from leases.errors import StoreError
from leases_backends import _zookeeper_asks as asks
from leases_backends._zookeeper_client import Session
from leases_backends._zookeeper_errors import fault_of, translate
from leases_backends._zookeeper_handler import open_socket
from leases_backends._zookeeper_nodes import ancestors

_OLDEST: Final = (3, 6)  # what is older is not maintained, and nobody tries this with it
_SERVER: Final = 2.0  # seconds for which one server is asked what it is
_SAMPLE: Final = 32  # records that are looked at


class Examination:
    """One look at an ensemble: its servers, and what this client may do there.

    Args:
        session: the client.
        parent: the node under which records stand.
        acl: who may do what with the nodes that are made.
        timeout: seconds for all of it.
    """

    def __init__(self, session: Session, parent: str, acl: list[Any], timeout: float) -> None:
        self._session, self._parent, self._acl = session, parent, acl
        self._half = time.monotonic() + timeout / 2  # Where none takes us, there is time to look at each.
        self._until = self._half + timeout / 2

    def findings(self) -> Iterator[Finding]:
        """What was found, in the order in which people ask."""
        shown = self._session.target.shown
        try:
            self._session.ask(self._half, asks.sync("/"))
        except StoreError as error:
            yield Finding("reach", Verdict.BAD, str(error))
            yield from self._servers()
            return
        yield Finding("reach", Verdict.GOOD, f"{shown} takes our session, and has a leader")
        yield from self._servers()
        yield from self._access()
        for look in (self._writing, self._reading):
            try:
                yield from look()
            except StoreError as error:
                yield Finding("permissions", Verdict.BAD, str(error))

    # ---- the servers -----------------------------------------------------------------------------

    def _servers(self) -> Iterator[Finding]:
        target = self._session.target
        for (host, port), endpoint in zip(target.hosts, target.endpoints, strict=True):
            yield self._server(host, port, f"server {endpoint}")

    def _server(self, host: str, port: int, subject: str) -> Finding:
        timeout = max(min(_SERVER, self._until - time.monotonic()), 0.01)
        try:
            with closing(open_socket((host, port), host, timeout, self._session.target.tls)) as connection:
                connection.settimeout(timeout)
                connection.sendall(b"srvr")
                said = b"".join(iter(lambda: connection.recv(4096), b"")).decode(errors="replace")
        except OSError as error:
            why = error.strerror or str(error)
            return Finding(subject, Verdict.DOUBTFUL, f"does not answer: {why}", "look whether it is up")
        return _judge(subject, said)

    # ---- what may be done ------------------------------------------------------------------------

    def _access(self) -> Iterator[Finding]:
        target = self._session.target
        if (target.digest or target.sasl) and target.tls is None:
            what = "the password" if target.digest else "what follows the login"
            yield Finding(
                "encryption",
                Verdict.DOUBTFUL,
                f"{what} crosses the network in the clear",
                "use zookeepers://",
            )
        if any(entry.id == ("world", "anyone") for entry in self._acl):
            text = "records are made open to everybody who reaches the servers"
            yield Finding(
                "access", Verdict.GOOD, text, "give user and password, or acl=creator, to close them"
            )

    def _writing(self) -> Iterator[Finding]:
        """Make a record, write it and delete it again, in one transaction: nobody ever sees it."""
        above = ancestors(self._parent)
        there = self._session.ask(self._until, *(asks.exists(path) for path in above))
        missing = [path for path, stat in zip(above, there, strict=True) if stat is None]
        record = f"{self._parent}/examination-{secrets.token_hex(8)}"
        made = [*missing, record]

        def try_all(transaction: Any) -> None:
            for path in made:
                transaction.create(path, b"", self._acl)
            transaction.set_data(record, b"", 0)
            for path in reversed(made):
                transaction.delete(path)

        (answers,) = self._session.ask(self._until, asks.transaction(try_all))
        fault = answers if isinstance(answers, Exception) else fault_of(answers)
        if fault is None:
            text = f"records can be made, written and deleted under {self._parent}"
            yield Finding("permission to write", Verdict.GOOD, text)
        elif isinstance(fault, NoAuthError) and not isinstance(answers, Exception):
            step = list(answers).index(fault)
            verb, path = ("create", made[step]) if step < len(made) else ("write or delete", record)
            where = path.rpartition("/")[0] or "/"
            text = f"may not {verb} nodes under {where}"
            yield Finding(
                "permission to write", Verdict.BAD, text, f"grant it in the ACL of {where} (setAcl)"
            )
        else:
            raise translate(fault, f"{self._session.target.shown}: {record}: making it")

    def _reading(self) -> Iterator[Finding]:
        (found,) = self._session.ask(self._until, asks.children(self._parent))
        if isinstance(found, NoNodeError):
            yield Finding("records", Verdict.GOOD, f"none yet: {self._parent} is made with the first")
            return
        if isinstance(found, Exception):
            text, advice = f"may not list {self._parent}", f"grant READ in its ACL (setAcl {self._parent})"
            yield Finding("permission to read", Verdict.BAD, text, advice)
            return
        nodes = found[0]
        some = nodes[:_SAMPLE]
        answers = self._session.ask(self._until, *(asks.get(f"{self._parent}/{node}") for node in some))
        closed = [node for node, answer in zip(some, answers, strict=True) if isinstance(answer, NoAuthError)]
        text = f"{len(nodes)} under {self._parent}"
        if closed:
            text = f"{len(closed)} of {len(some)} cannot be read, {closed[0]} among them"
            yield Finding("records", Verdict.BAD, text, "use one user for all, or mend their ACLs (setAcl)")
        else:
            yield Finding("records", Verdict.GOOD, text)


def _judge(subject: str, said: str) -> Finding:
    """What a server's answer to `srvr` means."""
    version = re.search(r"^Zookeeper version: (\d+)\.(\d+)([^\s,-]*)", said, re.MULTILINE)
    mode = re.search(r"^Mode: (.*)$", said, re.MULTILINE)
    if "whitelist" in said:
        advice = "allow it with 4lw.commands.whitelist=srvr"
        return Finding(subject, Verdict.DOUBTFUL, "answers, but does not tell its version", advice)
    if mode is None or version is None or mode[1] == "read-only":
        text = "answers, but serves nobody: it knows no leader" if mode is None else "serves reads only"
        return Finding(subject, Verdict.DOUBTFUL, text, "look at its log, and at the other servers")
    text = f"ZooKeeper {version[1]}.{version[2]}{version[3]}, {mode[1]}"
    if (int(version[1]), int(version[2])) < _OLDEST:
        advice = "upgrade it: it is no longer maintained, and nobody tries leases with it"
        return Finding(subject, Verdict.DOUBTFUL, text, advice)
    return Finding(subject, Verdict.GOOD, text)
