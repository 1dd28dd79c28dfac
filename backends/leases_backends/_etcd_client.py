"""One etcd cluster as one process sees it: its endpoints, the token, and what a fork must find closed.

A request goes to one endpoint, the one that answered last. Only when it surely was not executed there, as
there was no connection or the member said so, is it given to the next: that is choosing an endpoint, not
sending twice. Whoever gave no answer is not the first to be asked again.

gRPC's threads do not come along into the child of a fork. So before each fork the connections are closed,
with the threads that serve them; requests under way have a second to end, and new ones wait. The child
inherits nothing, and parent and child connect anew when they next have something to ask.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final, TypeVar

from leases.errors import ConfigurationError, StoreUnavailable
from leases_backends import _etcd_messages as messages
from leases_backends._aside import Aside
from leases_backends._etcd_errors import Fate, explain, fate
from leases_backends._etcd_janitor import Janitors
from leases_backends._etcd_watch import Watcher
from leases_backends._etcd_wire import AUTHENTICATE, Failed, Metadata, Rpc, Stream, Wire
from leases_backends._tls import Tls
from leases_backends._url import Address

Q = TypeVar("Q")
A = TypeVar("A")

_FORK_PATIENCE: Final = 1.0  # seconds for which a fork waits for requests under way
_DEAF: Final = 2  # unanswered requests in a row after which a connection is thought to be dead
_LOGIN_S: Final = 5.0  # seconds for fetching a token for a watch
_ATTENTION: Final = 0.2  # seconds; who gives less time to answer cannot tell
# A member that has no leader is to say so, instead of letting requests run into their timeouts.
_PLAIN: Final[Metadata] = (("hasleader", "true"),)


class Client:
    """The connections of this process to one cluster. Close it when `users` is empty.

    Attributes:
        address: where, and who asks.
        shown: the same for people, without secrets.
        users: who uses it.
        watcher: all watches of this process in this cluster.
        janitors: the leases that its writes name.
    """

    def __init__(self, address: Address) -> None:
        self.address: Final = address
        self.shown: Final = address.shown
        self.users: Final[set[object]] = set()
        self._tls = Tls.of(address) if address.secure else None
        self._password = _password(address)
        self._wires: list[Wire | None] = [None] * len(address.hosts)
        self._first = os.getpid() % len(
            address.hosts
        )  # the endpoint that is asked first: not all the same one
        self._metadata: Metadata | None = None if address.user else _PLAIN
        self._closed = False
        self._begin()
        self.watcher = Watcher(self)
        self.janitors = Janitors(self)

    def _begin(self) -> None:
        self._mutex = threading.Lock()  # Entering a Condition can be cut short by Ctrl-C, and locks it.
        self._changed = threading.Condition(self._mutex)
        self._login = threading.Lock()
        self._aside = Aside("etcd")  # gRPC's own Conditions are for all calls on a connection.
        self._inside = 0  # requests under way
        self._forking = False

    # ---- asking ----------------------------------------------------------------------------------

    def call(self, rpc: Rpc[Q, A], question: Q, timeout: float, *, who: str = "") -> A:
        """Ask the cluster, and wait for the answer.

        Args:
            timeout: seconds for all of it.
            who: the identity to blame in an error.

        Raises:
            NotExecuted: it surely was not done.
            StoreUnavailable: nobody can say.
            StoreDenied: it was not done, and never will be.
        """
        return self._aside.call(lambda: self._ask_in_turn(rpc, question, timeout, who))

    def _ask_in_turn(self, rpc: Rpc[Q, A], question: Q, timeout: float, who: str) -> A:
        until = time.monotonic() + timeout
        self._enter(until)
        try:
            at, others = self._first, len(self._wires) - 1
            while True:
                try:
                    return self._call(at, rpc, question, until)
                except Failed as failed:
                    if not self._goes_on(at, failed) or not others:
                        raise self._explain(failed, at, timeout, who) from failed.with_traceback(None)
                at, others = (at + 1) % len(self._wires), others - 1
        finally:
            self._leave()

    def call_at(self, at: int, rpc: Rpc[Q, A], question: Q, timeout: float, *, who: str = "") -> A:
        """Ask one endpoint, by its place in `address.hosts`; raises as `call` does."""
        return self._aside.call(lambda: self._ask_at(at, rpc, question, timeout, who))

    def _ask_at(self, at: int, rpc: Rpc[Q, A], question: Q, timeout: float, who: str) -> A:
        until = time.monotonic() + timeout
        self._enter(until)
        try:
            return self._call(at, rpc, question, until)
        except Failed as failed:
            raise self._explain(failed, at, timeout, who) from failed.with_traceback(None)
        finally:
            self._leave()

    def ask(self, rpc: Rpc[Q, A], question: Q, timeout: float, done: Callable[[A | None], None]) -> None:
        """Ask in the background: a thread of gRPC's calls back with the answer, or with None."""
        self._aside.call(lambda: self._ask(rpc, question, timeout, done))

    def _ask(self, rpc: Rpc[Q, A], question: Q, timeout: float, done: Callable[[A | None], None]) -> None:
        try:
            self._enter(time.monotonic())
        except StoreUnavailable:
            done(None)
            return
        try:
            self._wire(self._first).ask(rpc, question, timeout, self._metadata or _PLAIN, done)
        except Failed:
            done(None)
        finally:
            self._leave()

    def open_watch(self, requests: Iterator[messages.WatchRequest], *, renew: bool) -> tuple[Stream, int]:
        """Open a stream of watches; also says at which endpoint.

        Args:
            renew: the token that the last one was opened with may have expired.

        Raises:
            Failed: it cannot be opened now.
        """
        try:
            self._enter(time.monotonic())
        except StoreUnavailable as error:
            raise Failed("CLOSED", str(error), unsent=True) from error
        try:
            at, metadata = self._first, self._metadata
            if metadata is None or (renew and self.address.user):
                metadata = self._authenticate(at, metadata, time.monotonic() + _LOGIN_S)
            return self._wire(at).watch(requests, metadata), at
        finally:
            self._leave()

    def move_on(self, at: int) -> None:
        """Do not ask this endpoint first any more."""
        if self._first == at:
            self._first = (at + 1) % len(self._wires)

    def _call(self, at: int, rpc: Rpc[Q, A], question: Q, until: float) -> A:
        """Ask one endpoint, and once more with a new token where the old one has expired."""
        metadata = self._metadata or self._authenticate(at, None, until)
        try:
            return self._send(at, rpc, question, until, metadata)
        except Failed as failed:
            if not self.address.user or fate(failed) is not Fate.STALE:
                raise
        return self._send(at, rpc, question, until, self._authenticate(at, metadata, until))

    def _send(self, at: int, rpc: Rpc[Q, A], question: Q, until: float, metadata: Metadata) -> A:
        wire, timeout = self._wire(at), until - time.monotonic()
        try:
            answer = wire.call(rpc, question, timeout, metadata)
        except Failed as failed:
            if failed.code == "DEADLINE_EXCEEDED" and timeout > _ATTENTION:
                wire.timeouts += 1
            if wire.timeouts >= _DEAF or (failed.code == "UNAVAILABLE" and self._has_new_certificates(wire)):
                self._drop(at, wire)
            raise
        wire.timeouts = 0
        return answer

    def _goes_on(self, at: int, failed: Failed) -> bool:
        """Whether the next endpoint may be asked the same now; this one is not asked first any more."""
        what = fate(failed)
        if what in (Fate.ELSEWHERE, Fate.DOUBT):
            self.move_on(at)
        return what is Fate.ELSEWHERE

    def _explain(self, failed: Failed, at: int, timeout: float, who: str) -> Exception:
        return explain(failed, who or self.shown, self.address.endpoints[at], self.address.user, timeout)

    # ---- the token -------------------------------------------------------------------------------

    def _authenticate(self, at: int, stale: Metadata | None, until: float) -> Metadata:
        """The metadata with a token newer than the stale one; where others fetch it, theirs."""
        if not self._login.acquire(timeout=max(until - time.monotonic(), 0.0)):
            raise Failed("DEADLINE_EXCEEDED", "", unsent=True)
        try:
            if self._metadata is not None and self._metadata is not stale:
                return self._metadata
            question = messages.AuthenticateRequest(name=self.address.user, password=self._secret())
            try:
                token = self._send(at, AUTHENTICATE, question, until, _PLAIN).token
            except Failed as failed:
                if not failed.details.startswith("etcdserver: authentication is not enabled"):
                    raise Failed(failed.code, failed.details, unsent=True) from None
                self._metadata = (*_PLAIN,)  # Not the same object: it may have to be told from the next.
            else:
                self._metadata = (*_PLAIN, ("token", token))
            return self._metadata
        finally:
            self._login.release()

    def _secret(self) -> str:
        """The password as its file says it now: it may have been changed since."""
        with suppress(ConfigurationError):
            self._password = _password(self.address)
        return self._password

    # ---- connections -----------------------------------------------------------------------------

    def _wire(self, at: int) -> Wire:
        wire = self._wires[at]
        if wire is not None:
            return wire
        with self._mutex:
            wire = self._wires[at]
            if wire is None:
                host, port = self.address.hosts[at]
                try:
                    wire = self._wires[at] = Wire(host, port, self._tls)
                except ConfigurationError as error:  # A certificate's file was there when we connected.
                    raise Failed("UNAVAILABLE", str(error), unsent=True) from error
            return wire

    def _has_new_certificates(self, wire: Wire) -> bool:
        with suppress(ConfigurationError):
            return self._tls is not None and self._tls.pem() != wire.pem
        return False

    def _drop(self, at: int, wire: Wire) -> None:
        """Connect anew for the next request."""
        with self._mutex:
            if self._wires[at] is wire:
                self._wires[at] = None
        wire.close()

    def _enter(self, until: float) -> None:
        """Begin a request, once no fork is under way."""
        with self._mutex:
            while self._forking:
                if not self._changed.wait(until - time.monotonic()):
                    raise StoreUnavailable(f"{self.shown}: this process is being forked; try again")
            if self._closed:
                raise StoreUnavailable(f"{self.shown} was closed; connect again")
            self._inside += 1

    def _leave(self) -> None:
        with self._mutex:
            self._inside -= 1
            if self._forking:
                self._changed.notify_all()

    def _disconnect(self, *, settle: bool = False) -> None:
        for at, wire in enumerate(self._wires):
            self._wires[at] = None
            if wire is not None:
                wire.close()
                if settle:
                    wire.settle(_FORK_PATIENCE)

    def close(self) -> None:
        """End all connections; calls after it raise `StoreUnavailable`."""
        self._closed = True
        self.watcher.pause(0.0)
        self._aside.call(self._disconnect)
        self._aside.close()

    # ---- around a fork ---------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Close every connection, and keep others from opening one until the fork is done."""
        until = time.monotonic() + _FORK_PATIENCE
        with self._mutex:
            self._forking = True
            while self._inside and self._changed.wait(until - time.monotonic()):
                pass
        self.watcher.pause(_FORK_PATIENCE)
        self._disconnect(settle=True)

    def after_fork(self) -> None:
        """In the parent: go on."""
        with self._mutex:
            self._forking = False
            self._changed.notify_all()

    def forked(self) -> None:
        """In the child: nothing is under way, and nothing of the parent's is ours but the token."""
        self._begin()
        self._wires = [None] * len(self._wires)
        self.watcher.forked()
        self.janitors.forked()


def _password(address: Address) -> str:
    return address.secret("password_file") if "password_file" in address.options else address.password
