"""ZooKeeper: a persistent node per lock, written only by transactions that check its version and its birth.

The primitive is a transaction (`multi`) of a check and a `setData` with the node's version. Release writes a
free record; nothing is deleted. A token is counted up in the record, above the number (`mzxid`) of the
transaction that wrote it last, and above its parent's last change (`pzxid`) where there is none yet. Sessions
carry watches and decide nothing: there are no ephemeral nodes, so an expired session costs no lease.

  Version −1      means "whatever stands there" to ZooKeeper. It is never sent, also not where a node's 32-bit
                  version has come around to it.
  Stale reads     A server answers from what it knows, which may be old. Nothing rests on a read but a wait;
                  an absence is read behind a `sync`, because tokens begin with it.
  Partitioned     A server without a quorum closes its connections, and a read-only one is not accepted:
                  reads fail and writes are unknown until another server is found.
  Cut off         A request that was sent and not answered is unknown. It may be executed later: it compares
                  version and birth then, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from kazoo.exceptions import BadVersionError, NoAuthError, NodeExistsError, NoNodeError, NotEmptyError
from kazoo.protocol.states import ZnodeStat
from kazoo.security import CREATOR_ALL_ACL, OPEN_ACL_UNSAFE

from leases.contract import (
    Applied,
    Backend,
    Conflict,
    Finding,
    Notify,
    Outcome,
    Slot,
    Traits,
    Unknown,
    Watch,
)
from leases.errors import ConfigurationError, RecordRefused, StoreDenied, StoreUnavailable
from leases.record import Claim, encode
from leases_backends._tls import Tls
from leases_backends._url import TLS, Address, address
from leases_backends._zookeeper_client import Session, Target, session_of
from leases_backends._zookeeper_errors import NotDone, fault_of, translate
from leases_backends._zookeeper_examine import Examination
from leases_backends._zookeeper_nodes import BIRTH, Node, ancestors, is_path, name_of, new_birth, node_of

TRAITS: Final = Traits(
    "zookeeper",
    release_deletes=False,
    token_from_write=False,
    least_ttl=1.0,
    token_source="counted up in the record, from the number (zxid) of the transaction that wrote it last",
    failover="ttl after a waiter first saw the holder's last renewal, + 2 round trips;"
    " while the ensemble elects a leader nobody acquires",
    restore="zxids go back, and with them versions and tokens: stop all clients, restore, start them",
)

_ACLS: Final = {"creator": CREATOR_ALL_ACL, "open": OPEN_ACL_UNSAFE}
_IN_THE_WAY: Final = (NoNodeError, NodeExistsError, BadVersionError, NotEmptyError)
_AT_ONCE: Final = 256  # records that a scan asks for in one go


def connect(url: str) -> Zookeeper:
    """A connection to the ensemble that the URL names; no server is spoken to before the first call.

    `zookeeper://user:password@h1:2181,h2,h3/app/locks?acl=open`: the path is the node under which records
    stand, `/leases` by default. `zookeepers://` is the same over TLS.

    Raises:
        ConfigurationError: a URL, a file or a combination of options that cannot work.
    """
    where = address(url, port=2181, known=(*TLS, "acl", "sasl", "password_file"))
    shown = _shown(where)
    parent = where.path or "leases"
    if not is_path(parent):
        raise ConfigurationError(
            f"{shown}: its path cannot be a node for records; use one such as /app/locks"
        )
    user, password = _credentials(where, shown)
    sasl = _sasl(where, user, password, shown)
    acl = where.options.get("acl", "creator" if user else "open")
    if acl not in _ACLS:
        raise ConfigurationError(f"{shown}: acl= is one of {', '.join(_ACLS)}; choose one")
    if acl == "creator" and not (user or "cert" in where.options):
        raise ConfigurationError(f"{shown}: acl=creator needs an identity; give user and password, or cert=")
    target = Target(
        shown,
        where.hosts,
        where.endpoints,
        Tls.of(where) if where.secure else None,
        f"{user}:{password}" if user and not sasl else "",
        sasl,
    )
    return Zookeeper(url, target, f"/{parent}", _ACLS[acl])


def _shown(where: Address) -> str:
    """The store's identity: the same from every process, in whatever order it names the servers."""
    return f"{where.scheme}://{','.join(sorted(where.endpoints))}/{where.path or 'leases'}"


def _credentials(where: Address, shown: str) -> tuple[str, str]:
    user, password = where.user, where.password
    if "password_file" in where.options:
        if password:
            raise ConfigurationError(f"{shown}: a password and password_file= are given; leave one out")
        password = where.secret("password_file")
    if bool(user) != bool(password):
        missing = "password" if user else "user"
        raise ConfigurationError(f"{shown}: the {missing} is missing; write user:password@ or password_file=")
    if ":" in user:
        raise ConfigurationError(f'{shown}: a user of ZooKeeper has no ":" in its name; use another')
    return user, password


def _sasl(where: Address, user: str, password: str, shown: str) -> tuple[tuple[str, str], ...]:
    mechanism = where.options.get("sasl")
    if mechanism is None:
        return ()
    if mechanism != "digest-md5":
        raise ConfigurationError(f"{shown}: sasl= is digest-md5 or left out; choose one")
    if not user:
        raise ConfigurationError(f"{shown}: sasl= needs a user and a password; write user:password@")
    from kazoo.protocol.connection import PURESASL_AVAILABLE

    if not PURESASL_AVAILABLE:
        raise ConfigurationError(
            'sasl= needs the package pure-sasl; install it with: pip install "leases[zookeeper]"'
        )
    return ("mechanism", "DIGEST-MD5"), ("username", user), ("password", password)


class Zookeeper(Backend):
    """One user of an ensemble; all of a process that name the same URL share one session."""

    def __init__(self, url: str, target: Target, parent: str, acl: list[Any]) -> None:
        self.traits = TRAITS
        self.identity = target.shown
        self._parent, self._acl = parent, acl
        self._closed = False
        self._session = session_of(url, target, self)

    # ---- reading ---------------------------------------------------------------------------------

    def read(self, name: str, timeout: float) -> Slot:
        session, path, until = self._open(), self._path(name), time.monotonic() + timeout
        if session.birth(path) is not None:
            (found,) = session.ask(until, _get(path))
            if not isinstance(found, NoNodeError):
                return self._node(found, path).slot(name)
        return self._look(session, name, path, until)

    def _look(self, session: Session, name: str, path: str, until: float) -> Slot:
        """What stands there, with the birth that a swap will need, and with numbers where nothing stands.

        All is asked at once. The parents are asked before and after: what they say before is not newer than
        the absence, and what they say after is not older.
        """
        for above in ((self._parent,), ancestors(self._parent)):
            numbers = [_exists(one) for one in above]
            asks = (_sync(path), *numbers, _children(path), _get(path), *numbers)
            _, *answers = session.ask(until, *asks)
            before, (children, found), after = _split(answers, len(above))
            if not isinstance(found, NoNodeError):
                node = self._node(found, path)
                self._remember(session, path, node, children)
                return node.slot(name)
            session.remember(path, 0, None)
            order, floor = self._number(before, above), self._number(after, above)
            if order is not None and floor is not None:
                return Slot(name, None, order=order, floor=floor)
        raise StoreUnavailable(f"{self.identity} shows no root node; look at its servers")

    def _number(self, answers: list[Any], paths: Iterable[str]) -> int | None:
        """The last change among the children of the parents that are there; None where none of them is.

        That of the lowest is not below any write to a record that is gone: with a parent, its records go.
        """
        there = [(path, stat) for path, stat in zip(paths, answers, strict=True) if stat is not None]
        if there and isinstance(there[-1][1], Exception):
            path, error = there[-1]
            raise translate(error, f"{self.identity}: {path}: looking at it") from error
        return max((stat.pzxid for _, stat in there if not isinstance(stat, Exception)), default=None)

    def _node(self, found: Any, path: str) -> Node:
        if isinstance(found, Exception):
            raise translate(found, f"{self.identity}: {path}: reading it") from found
        return Node.of(*found)

    def _remember(self, session: Session, path: str, node: Node, children: Any) -> None:
        """Keep the birth of the record that was read, if the children were read of the same."""
        if not isinstance(children, Exception) and children[1].czxid == node.czxid:
            births = sorted(child for child in children[0] if child.startswith(BIRTH))
            session.remember(path, node.czxid, births[0] if births else None)

    def scan(self, prefix: str, timeout: float) -> Iterable[Slot | Exception]:
        session, until = self._open(), time.monotonic() + timeout
        _, found = session.ask(until, _sync(self._parent), _children(self._parent))
        if isinstance(found, NoNodeError):
            return []
        if isinstance(found, Exception):
            raise translate(found, f"{self.identity}: {self._parent}: listing it") from found
        nodes = sorted((name_of(node) or node, node) for node in found[0])
        wanted = [(name, node) for name, node in nodes if name.startswith(prefix)]
        shown: list[Slot | Exception] = []
        for start in range(0, len(wanted), _AT_ONCE):
            some = wanted[start : start + _AT_ONCE]
            answers = session.ask(until, *(_get(f"{self._parent}/{node}") for _, node in some))
            shown += self._shown(some, answers)
        return shown

    def _shown(self, wanted: list[tuple[str, str]], answers: list[Any]) -> Iterator[Slot | Exception]:
        for (name, node), answer in zip(wanted, answers, strict=True):
            if isinstance(answer, NoNodeError):
                continue
            try:
                found = self._node(answer, f"{self._parent}/{node}")
                if name_of(node) is None:
                    raise RecordRefused(name, "its node has a name that no lock's has", found.body)
                yield found.slot(name)
            except (RecordRefused, StoreDenied) as refused:
                yield refused

    # ---- swapping --------------------------------------------------------------------------------

    def swap(self, seen: Slot, claim: Claim | None, timeout: float) -> Outcome:
        session, until = self._open(), time.monotonic() + timeout
        if claim is None:
            if seen.claim is None:
                return Conflict()
            claim = seen.claim.freed()
        body = encode(claim)
        try:
            if seen.version is None:
                done = self._create(session, self._path(seen.name), body, until)
            else:
                done = self._write(session, seen, body, until)
        except NotDone as error:
            return Unknown(error, void=True)
        except StoreUnavailable as error:
            return Unknown(error)
        return Applied(done.slot(seen.name, claim)) if done is not None else self._conflict(seen, until)

    def _create(self, session: Session, path: str, body: bytes, until: float) -> Node | None:
        """Create a record with its birth; None where one stands there already."""
        birth = new_birth()

        def create(transaction: Any) -> None:
            transaction.create(path, b"", self._acl)
            transaction.create(f"{path}/{birth}", b"", self._acl)
            transaction.set_data(path, body, 0)  # Unlike creating, it answers with the node's numbers.

        answers = self._commit(session, until, path, create)
        if isinstance(answers, NoNodeError):
            refusal = self._make_parents(session, until)
            answers = self._commit(session, until, path, create)
            if isinstance(answers, NoNodeError):
                raise refusal or NotDone(f"{self.identity}: {self._parent} vanishes as soon as it is made")
        return None if isinstance(answers, Exception) else self._made(session, path, body, birth, answers)

    def _write(self, session: Session, seen: Slot, body: bytes, until: float) -> Node | None:
        """Write over exactly the version that was seen; None where another stands there."""
        path, (czxid, version) = self._path(seen.name), _stamp(seen)
        known = self._birth(session, path, czxid, until)
        birth = known or new_birth()

        def write(transaction: Any) -> None:
            if known:
                transaction.check(f"{path}/{birth}", 0)
            transaction.set_data(path, body, version)
            if not known:
                transaction.create(f"{path}/{birth}", b"", self._acl)

        answers = None if known is None else self._commit(session, until, path, write)
        if answers is None or isinstance(answers, Exception):
            session.remember(path, 0, None)
            return None
        return self._made(session, path, body, birth, answers)

    def _birth(self, session: Session, path: str, czxid: int, until: float) -> str | None:
        """The birth of the record that was seen; "" where it came without one, None where it is gone."""
        known = session.birth(path, czxid)
        if known is not None:
            return known
        try:
            children, found = session.ask(until, _children(path), _get(path))
        except StoreUnavailable as error:
            raise NotDone(str(error)) from error
        if isinstance(found, NoNodeError):
            return None
        node = self._node(found, path)
        self._remember(session, path, node, children)
        return (session.birth(path, czxid) or "") if node.czxid == czxid else None

    def _commit(self, session: Session, until: float, path: str, fill: Callable[[Any], None]) -> Any:
        """Send a transaction: the answers of its parts, or what it ran into; raises as `_judged` does.

        Raises:
            StoreUnavailable: nobody knows whether it was done.
        """
        (answers,) = session.ask(until, _transaction(fill))
        return self._judged(answers, path)

    def _judged(self, answers: Any, path: str) -> Any:
        """The answers of a transaction's parts, or what it ran into: another version, another node.

        Raises:
            StoreDenied: it is not allowed.
            NotDone: one of its parts failed for another reason, so that none was done.
        """
        fault = answers if isinstance(answers, Exception) else fault_of(answers)
        if fault is None or isinstance(fault, _IN_THE_WAY):
            return fault or answers
        error = translate(fault, f"{self.identity}: {path}: writing it")
        raise error if isinstance(error, StoreDenied) else NotDone(str(error)) from fault

    def _made(self, session: Session, path: str, body: bytes, birth: str, answers: Any) -> Node:
        stat = next(answer for answer in answers if isinstance(answer, ZnodeStat))
        session.remember(path, stat.czxid, birth)
        return Node.of(body, stat)

    def _make_parents(self, session: Session, until: float) -> Exception | None:
        """Make the node for records, and what is missing above it; why not, where that is not allowed."""
        above = ancestors(self._parent)
        try:
            there = session.ask(until, *map(_exists, above))
            missing = [path for path, stat in zip(above, there, strict=True) if stat is None]
            made = session.ask(until, *(_made_at(path, self._acl) for path in missing))
        except StoreUnavailable as error:  # A parent may have been made, and the record was not.
            raise NotDone(str(error)) from error
        refused = [pair for pair in zip(missing, made, strict=True) if isinstance(pair[1], NoAuthError)]
        return translate(refused[0][1], f"{self.identity}: {refused[0][0]}: creating it") if refused else None

    def _conflict(self, seen: Slot, until: float) -> Conflict:
        """What stands there instead. The server that refused the swap has seen it, so this read does too."""
        try:
            slot = self.read(seen.name, max(until - time.monotonic(), 0.0))
        except (StoreUnavailable, StoreDenied):
            return Conflict()
        return Conflict(slot if slot.version != seen.version else None)

    def remove(self, seen: Slot, timeout: float) -> Outcome:
        session, until = self._open(), time.monotonic() + timeout
        if seen.version is None:
            return Conflict()
        try:
            gone = self._delete(session, seen, until)
        except NotDone as error:
            return Unknown(error, void=True)
        except StoreUnavailable as error:
            return Unknown(error)
        return Applied(gone) if gone is not None else self._conflict(seen, until)

    def _delete(self, session: Session, seen: Slot, until: float) -> Slot | None:
        """Delete exactly the version that was seen, and its birth; None where another stands there."""
        path, (czxid, version) = self._path(seen.name), _stamp(seen)
        try:
            (below,) = session.ask(until, _children(path))
        except StoreUnavailable as error:
            raise NotDone(str(error)) from error
        if isinstance(below, NoAuthError):
            raise translate(below, f"{self.identity}: {path}: listing it") from below
        if isinstance(below, NoNodeError) or below[1].czxid != czxid:
            return None
        if any(not child.startswith(BIRTH) for child in below[0]):
            raise RecordRefused(seen.name, "its node has children of somebody else's", seen.body)

        def delete(transaction: Any) -> None:
            for birth in below[0]:
                transaction.delete(f"{path}/{birth}", 0)
            transaction.delete(path, version)

        # What is asked in one go is answered in order: the parent's number is not below that of the deletion.
        answers, above = session.ask(until, _transaction(delete), _exists(self._parent))
        session.remember(path, 0, None)
        if isinstance(self._judged(answers, path), Exception):
            return None
        number = seen.floor if above is None else above.pzxid
        return Slot(seen.name, None, order=number, floor=number)

    # ---- the rest --------------------------------------------------------------------------------

    def watch(self, seen: Slot, notify: Notify) -> Watch:
        return self._open().watcher.add(self._path(seen.name), seen, notify, self)

    def examine(self, timeout: float) -> Iterator[Finding]:
        return Examination(self._open(), self._parent, self._acl, timeout).findings()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._session.release(self)

    def forked(self) -> None:
        """Nothing is left to do: the session has dropped its connection, right after the fork."""

    def _open(self) -> Session:
        if self._closed:
            raise StoreUnavailable(f"{self.identity} was closed; connect again")
        return self._session

    def _path(self, name: str) -> str:
        return f"{self._parent}/{node_of(name)}"


def _stamp(seen: Slot) -> tuple[int, int]:
    """Creation and version of a slot, as a transaction may check them."""
    assert isinstance(seen.version, tuple)
    czxid, version = seen.version
    if version == -1:
        raise RecordRefused(
            seen.name, "its node was written so often that its version cannot be checked any more", seen.body
        )
    return czxid, version


def _split(answers: list[Any], size: int) -> tuple[list[Any], list[Any], list[Any]]:
    """What was said of the parents before, what was asked between, and what was said of them after."""
    return answers[:size], answers[size:-size], answers[-size:]


def _transaction(fill: Callable[[Any], None]) -> Callable[[Any], Any]:
    def send(client: Any) -> Any:
        transaction = client.transaction()
        fill(transaction)
        return transaction.commit_async()

    return send


def _get(path: str) -> Callable[[Any], Any]:
    return lambda client: client.get_async(path)


def _exists(path: str) -> Callable[[Any], Any]:
    return lambda client: client.exists_async(path)


def _children(path: str) -> Callable[[Any], Any]:
    return lambda client: client.get_children_async(path, include_data=True)


def _sync(path: str) -> Callable[[Any], Any]:
    return lambda client: client.sync_async(path)


def _made_at(path: str, acl: list[Any]) -> Callable[[Any], Any]:
    return lambda client: client.create_async(path, b"", acl)
