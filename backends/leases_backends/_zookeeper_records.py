"""Records as nodes: reading them, and writing them on condition of version and birth.

All of it may raise what `Session.ask` does; `NotDone` where nothing was written, `StoreUnavailable` where
nobody knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from kazoo.exceptions import BadVersionError, NoAuthError, NodeExistsError, NoNodeError, NotEmptyError
from kazoo.protocol.states import ZnodeStat

from leases.contract import Slot, is_beside
from leases.errors import RecordRefused, StoreDenied, StoreUnavailable
from leases_backends import _zookeeper_asks as asks
from leases_backends._zookeeper_client import Session
from leases_backends._zookeeper_errors import NotDone, fault_of, translate
from leases_backends._zookeeper_nodes import BIRTH, Node, ancestors, name_of, new_birth, node_of

_IN_THE_WAY: Final = (NoNodeError, NodeExistsError, BadVersionError, NotEmptyError)
_AT_ONCE: Final = 256  # records that a scan asks for in one go


class Records:
    """The records under one parent, over one session.

    Args:
        session: the client.
        parent: the node under which they stand.
        acl: who may do what with the nodes that are made.
    """

    def __init__(self, session: Session, parent: str, acl: list[Any]) -> None:
        self._session, self._parent, self._acl = session, parent, acl
        self._shown_as = session.target.shown

    def path(self, name: str) -> str:
        """Where a lock's record stands."""
        return f"{self._parent}/{node_of(name)}"

    # ---- reading ---------------------------------------------------------------------------------

    def read(self, name: str, until: float) -> Slot:
        """What stands under a name: of one that was seen to be there, one request."""
        path = self.path(name)
        if self._session.birth(path) is not None:
            (found,) = self._session.ask(until, asks.get(path))
            if not isinstance(found, NoNodeError):
                return self._node(found, path).slot(name)
        return self._look(name, path, until)

    def _look(self, name: str, path: str, until: float) -> Slot:
        """What stands there, with the birth that a swap will need, and with numbers where nothing stands.

        All is asked at once. The parents are asked before and after: what they say before is not newer than
        the absence, and what they say after is not older.
        """
        for above in ((self._parent,), ancestors(self._parent)):
            numbers = [asks.exists(one) for one in above]
            wanted = (asks.sync(path), *numbers, asks.children(path), asks.get(path), *numbers)
            _, *answers = self._session.ask(until, *wanted)
            before, (children, found), after = _split(answers, len(above))
            if not isinstance(found, NoNodeError):
                node = self._node(found, path)
                self._remember(path, node, children)
                return node.slot(name)
            self._session.remember(path, 0, None)
            order, floor = self._number(before, above), self._number(after, above)
            if order is not None and floor is not None:
                return Slot(name, None, order=order, floor=floor)
        raise StoreUnavailable(f"{self._shown_as} shows no root node; look at its servers")

    def _number(self, answers: list[Any], paths: Iterable[str]) -> int | None:
        """The last change among the children of the parents that are there; None where none of them is.

        That of the lowest is not below any write to a record that is gone: with a parent, its records go.
        """
        there = [(path, stat) for path, stat in zip(paths, answers, strict=True) if stat is not None]
        if there and isinstance(there[-1][1], Exception):
            path, error = there[-1]
            raise translate(error, f"{self._shown_as}: {path}: looking at it") from error
        return max((stat.pzxid for _, stat in there if not isinstance(stat, Exception)), default=None)

    def read_bytes(self, name: str, until: float) -> bytes | None:
        """The bytes of another node next to the records; None where there is none."""
        path = self.path(name)
        _, found = self._session.ask(until, asks.sync(path), asks.get(path))
        return None if isinstance(found, NoNodeError) else self._node(found, path).body

    def _node(self, found: Any, path: str) -> Node:
        if isinstance(found, Exception):
            raise translate(found, f"{self._shown_as}: {path}: reading it") from found
        return Node.of(*found)

    def _remember(self, path: str, node: Node, children: Any) -> None:
        """Keep the birth of the record that was read, if the children were read of the same."""
        if not isinstance(children, Exception) and children[1].czxid == node.czxid:
            births = sorted(child for child in children[0] if child.startswith(BIRTH))
            self._session.remember(path, node.czxid, births[0] if births else None)

    def scan(self, prefix: str, until: float) -> list[Slot | Exception]:
        """Every record whose name begins so, by name, with an error in place of what cannot be shown."""
        _, found = self._session.ask(until, asks.sync(self._parent), asks.children(self._parent))
        if isinstance(found, NoNodeError):
            return []
        if isinstance(found, Exception):
            raise translate(found, f"{self._shown_as}: {self._parent}: listing it") from found
        nodes = sorted((name_of(node) or node, node) for node in found[0])
        wanted = [(name, node) for name, node in nodes if name.startswith(prefix) and not is_beside(name)]
        shown: list[Slot | Exception] = []
        for start in range(0, len(wanted), _AT_ONCE):
            some = wanted[start : start + _AT_ONCE]
            answers = self._session.ask(until, *(asks.get(f"{self._parent}/{node}") for _, node in some))
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

    # ---- writing ---------------------------------------------------------------------------------

    def create(self, name: str, body: bytes, until: float) -> Node | None:
        """Create a record with its birth; None where one stands there already."""
        path, birth = self.path(name), new_birth()

        def create(transaction: Any) -> None:
            transaction.create(path, b"", self._acl)
            transaction.create(f"{path}/{birth}", b"", self._acl)
            transaction.set_data(path, body, 0)  # Unlike creating, it answers with the node's numbers.

        answers = self._commit(until, path, create)
        if isinstance(answers, NoNodeError):
            refusal = self._make_parents(until)
            answers = self._commit(until, path, create)
            if isinstance(answers, NoNodeError):
                raise refusal or NotDone(f"{self._shown_as}: {self._parent} vanishes as soon as it is made")
        return None if isinstance(answers, Exception) else self._made(path, body, birth, answers)

    def write(self, seen: Slot, body: bytes, until: float) -> Node | None:
        """Write over exactly the version that was seen; None where another stands there."""
        path, (czxid, version) = self.path(seen.name), _stamp(seen)
        known = self._birth(path, czxid, until)
        birth = known or new_birth()

        def write(transaction: Any) -> None:
            if known:
                transaction.check(f"{path}/{birth}", 0)
            transaction.set_data(path, body, version)
            if not known:
                transaction.create(f"{path}/{birth}", b"", self._acl)

        answers = None if known is None else self._commit(until, path, write)
        if answers is None or isinstance(answers, Exception):
            self._session.remember(path, 0, None)
            return None
        return self._made(path, body, birth, answers)

    def write_beside(self, guard: Slot, name: str, body: bytes | None, until: float) -> bool:
        """Write another node, or delete it (None), if exactly the version of a record stands, and its birth.

        The checks come first in the transaction: what it says of the node says that they were passed.
        """
        path, place, (czxid, version) = self.path(guard.name), self.path(name), _stamp(guard)
        birth = self._birth(path, czxid, until)
        for write in _ways(place, body, self._acl) if birth else ():
            fill = _after((f"{path}/{birth}", 0), (path, version), write)
            (answers,) = self._session.ask(until, asks.transaction(fill))
            fault = self._judged(answers, place)
            if not isinstance(fault, Exception):
                return True
            if isinstance(answers, Exception) or answers[-1] is not fault:
                break
            if body is None:
                return True  # There is nothing to delete.
        else:
            if birth:
                raise NotDone(f"{self._shown_as}: {place}: others make and delete it; try again")
        self._session.remember(path, 0, None)
        return False

    def _birth(self, path: str, czxid: int, until: float) -> str | None:
        """The birth of the record that was seen; "" where it came without one, None where it is gone."""
        known = self._session.birth(path, czxid)
        if known is not None:
            return known
        try:
            children, found = self._session.ask(until, asks.children(path), asks.get(path))
        except StoreUnavailable as error:
            raise NotDone(str(error)) from error
        if isinstance(found, NoNodeError):
            return None
        node = self._node(found, path)
        self._remember(path, node, children)
        return (self._session.birth(path, czxid) or "") if node.czxid == czxid else None

    def _commit(self, until: float, path: str, fill: Callable[[Any], None]) -> Any:
        """Send a transaction: the answers of its parts, or what it ran into; raises as `_judged` does.

        Raises:
            StoreUnavailable: nobody knows whether it was done.
        """
        (answers,) = self._session.ask(until, asks.transaction(fill))
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
        error = translate(fault, f"{self._shown_as}: {path}: writing it")
        raise error if isinstance(error, StoreDenied) else NotDone(str(error)) from fault

    def _made(self, path: str, body: bytes, birth: str, answers: Any) -> Node:
        stat = next(answer for answer in answers if isinstance(answer, ZnodeStat))
        self._session.remember(path, stat.czxid, birth)
        return Node.of(body, stat)

    def _make_parents(self, until: float) -> Exception | None:
        """Make the node for records, and what is missing above it; why not, where that is not allowed."""
        above = ancestors(self._parent)
        try:
            there = self._session.ask(until, *map(asks.exists, above))
            missing = [path for path, stat in zip(above, there, strict=True) if stat is None]
            made = self._session.ask(until, *(asks.create(path, self._acl) for path in missing))
        except StoreUnavailable as error:  # A parent may have been made, and the record was not.
            raise NotDone(str(error)) from error
        refused = [pair for pair in zip(missing, made, strict=True) if isinstance(pair[1], NoAuthError)]
        return (
            translate(refused[0][1], f"{self._shown_as}: {refused[0][0]}: creating it") if refused else None
        )

    def delete(self, seen: Slot, until: float) -> Slot | None:
        """Delete exactly the version that was seen, and its birth; None where another stands there."""
        path, (czxid, version) = self.path(seen.name), _stamp(seen)
        try:
            (below,) = self._session.ask(until, asks.children(path))
        except StoreUnavailable as error:
            raise NotDone(str(error)) from error
        if isinstance(below, NoAuthError):
            raise translate(below, f"{self._shown_as}: {path}: listing it") from below
        if isinstance(below, NoNodeError) or below[1].czxid != czxid:
            return None
        if any(not child.startswith(BIRTH) for child in below[0]):
            raise RecordRefused(seen.name, "its node has children of somebody else's", seen.body)

        def delete(transaction: Any) -> None:
            for birth in below[0]:
                transaction.delete(f"{path}/{birth}", 0)
            transaction.delete(path, version)

        # What is asked in one go is answered in order: the parent's number is not below that of the deletion.
        answers, above = self._session.ask(until, asks.transaction(delete), asks.exists(self._parent))
        self._session.remember(path, 0, None)
        if isinstance(self._judged(answers, path), Exception):
            return None
        number = seen.floor if above is None else above.pzxid
        return Slot(seen.name, None, order=number, floor=number)


def _stamp(seen: Slot) -> tuple[int, int]:
    """Creation and version of a slot, as a transaction may check them."""
    assert isinstance(seen.version, tuple)
    czxid, version = seen.version
    if version == -1:
        raise RecordRefused(
            seen.name, "its node was written so often that its version cannot be checked any more", seen.body
        )
    return czxid, version


def _ways(path: str, body: bytes | None, acl: list[Any]) -> tuple[Callable[[Any], None], ...]:
    """What brings a node to its bytes, whatever it was before: the second where the first finds none."""
    if body is None:
        return (lambda transaction: transaction.delete(path),)
    return (
        lambda transaction: transaction.set_data(path, body),
        lambda transaction: transaction.create(path, body, acl),
    )


def _after(
    first: tuple[str, int], second: tuple[str, int], write: Callable[[Any], None]
) -> Callable[[Any], None]:
    """A transaction that checks two nodes' versions before it writes."""

    def fill(transaction: Any) -> None:
        transaction.check(*first)
        transaction.check(*second)
        write(transaction)

    return fill


def _split(answers: list[Any], size: int) -> tuple[list[Any], list[Any], list[Any]]:
    """What was said of the parents before, what was asked between, and what was said of them after."""
    return answers[:size], answers[size:-size], answers[-size:]
