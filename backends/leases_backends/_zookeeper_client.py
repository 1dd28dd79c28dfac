"""One client of ZooKeeper for all of a process that name the same URL: its life, and asking it.

Kazoo brings the connection, the session and the protocol; none of its recipes and retries is used. Kazoo
keeps what it cannot send and sends it when it is connected again, however late that is: here nothing is
handed to it before it is connected. And it takes every request for a sign of life, so that a busy client
never notices a silent server: here a call that got no answer gives the connection up. And what its threads
share it guards by what Ctrl-C can leave locked: here the main thread never calls it.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Final

from kazoo.client import KazooClient
from kazoo.protocol.states import Callback, KazooState, KeeperState

from leases.errors import StoreDenied, StoreUnavailable
from leases_backends._aside import Aside
from leases_backends._tls import Tls
from leases_backends._zookeeper_asks import Ask
from leases_backends._zookeeper_errors import ANSWERS, NotDone, translate
from leases_backends._zookeeper_handler import Handler
from leases_backends._zookeeper_watch import Watcher

SESSION: Final = 10.0  # seconds asked of the server; nothing depends on a session but the hints
_GOODBYE: Final = 0.5  # seconds for which a server is waited for when a session is closed
_END: Final = 3.0  # seconds in which the threads end once the connection is cut

# As long as there is somebody to wait for an answer, there is a reason to look for a server.
_RECONNECT: Final = {"max_tries": -1, "delay": 0.05, "backoff": 2, "max_jitter": 0.4, "max_delay": 1.0}


@dataclass(frozen=True)
class Target:
    """Which servers, and as whom.

    Attributes:
        shown: the store for people, without secrets.
        hosts: the servers, as name or address and port.
        endpoints: the same as `host:port`.
        tls: certificates; None for connections in the clear.
        digest: "user:password" of ZooKeeper's own scheme; empty where there is none.
        sasl: what the SASL mechanism is given; empty where there is none.
    """

    shown: str
    hosts: tuple[tuple[str, int], ...]
    endpoints: tuple[str, ...]
    tls: Tls | None = None
    digest: str = field(default="", repr=False)
    sasl: tuple[tuple[str, str], ...] = field(default=(), repr=False)


class Session:
    """What the backends of one URL share: a client, its watches, and what is known of records.

    Attributes:
        target: which servers.
        users: who has not closed it yet.
        watcher: everybody who wants to hear of changes.
        aside: what calls kazoo for the main thread.
    """

    def __init__(self, target: Target) -> None:
        self.target: Final = target
        self.users: Final[set[object]] = set()
        self.watcher: Final = Watcher(self)
        self._client: Any = None
        self.forked()

    # ---- asking ----------------------------------------------------------------------------------

    def ask(self, until: float, *asks: Ask) -> list[Any]:
        """Send requests at once and wait for all answers: one round trip, however many they are.

        Returns:
            For each its answer, or one of the exceptions in `ANSWERS`.

        Raises:
            NotDone: none of them was sent, or the server says that it did not do it.
            StoreUnavailable: one of them was not answered by `until`, and may have been done.
            StoreDenied: the server refused the credentials.
        """
        return self.aside.call(lambda: self._ask(until, asks))

    def _ask(self, until: float, asks: tuple[Ask, ...]) -> list[Any]:
        client, handler = self._connected(until)
        asked = time.monotonic()
        answers = [self._answer(handler, asked, until, result) for result in [ask(client) for ask in asks]]
        handler.answered()
        return answers

    def _answer(self, handler: Handler, asked: float, until: float, result: Any) -> Any:
        if not result.wait(max(until - time.monotonic(), 0.0)):
            now = time.monotonic()
            handler.silent_since = since = handler.silent_since or asked
            if now - since >= handler.patience:
                handler.drop()
            raise StoreUnavailable(
                f"{self.target.shown} gave no answer within {now - asked:.1f} s; look whether it is up"
            )
        error = result.exception
        if error is None or isinstance(error, ANSWERS):
            return result.value if error is None else error
        raise translate(error, self.target.shown) from error

    def _connected(self, until: float) -> tuple[Any, Handler]:
        """A client that is connected."""
        with self._mutex:
            client = self._living()
            handler: Handler = client.handler
            while not client.connected:
                left = until - time.monotonic()
                if handler.refusal:
                    raise StoreDenied(f"{self.target.shown}: {handler.refusal}")
                if left <= 0 or handler.ended:
                    raise NotDone(self._not_reached(handler))
                self._changed.wait(left)
            return client, handler

    def _not_reached(self, handler: Handler) -> str:
        trouble = f" ({handler.trouble})" if handler.trouble else ""
        how = "with" if self.target.tls else "without"
        advice = f"look whether one is up, and that it takes clients {how} TLS there"
        return f"{self.target.shown}: no server could be reached in time{trouble}; {advice}"

    # ---- the client's life -----------------------------------------------------------------------

    def begin(self) -> None:
        """Begin to connect, if nobody has yet."""
        with self._mutex:
            self._living()

    def client_now(self) -> Any:
        """The client if it is connected now, else None."""
        client = self._client
        return client if client is not None and client.connected else None

    def _living(self) -> Any:
        """The client, or a new one where that has ended: after refused credentials it does not go on."""
        if self._client is not None and self._client.handler.ended:
            # Its threads may want to tell us something, so it must not be waited for here.
            threading.Thread(target=_end, args=(self._client,), daemon=True).start()
            self._client = None
        if self._client is None:
            self._client = self._new_client()
            self._client.start_async()
        return self._client

    def _new_client(self) -> Any:
        target = self.target
        handler = Handler(target.tls, len(target.endpoints), self._notice)
        client: Any = KazooClient(
            hosts=",".join(target.endpoints),
            timeout=SESSION,
            handler=handler,
            auth_data=[("digest", target.digest)] if target.digest else None,
            sasl_options=dict(target.sasl) or None,
            connection_retry=_RECONNECT,
            use_ssl=target.tls is not None,
            logger=handler.logger,
        )

        def turn(state: str) -> None:
            self._turn(client, handler, state)

        client.add_listener(turn)
        return client

    def _turn(self, client: Any, handler: Handler, state: str) -> None:
        """The connection came or went; in kazoo's own thread, which must not be kept."""
        if state == KazooState.CONNECTED:
            handler.connected()
            handler.dispatch_callback(Callback("watch", self.watcher.connected, ()))
        elif client.client_state == KeeperState.AUTH_FAILED:
            handler.refuse("the credentials were refused; check user and password")
        self._notice()

    def _notice(self) -> None:
        with self._mutex:
            self._changed.notify_all()

    def release(self, user: object) -> None:
        """A backend needs it no more; with the last the session is closed."""
        with _sessions_mutex:
            self.users.discard(user)
            last = not self.users
            if last:
                for key in [key for key, session in _sessions.items() if session is self]:
                    del _sessions[key]
        self.watcher.forget(user)
        if last:
            with self._mutex:
                client, self._client = self._client, None
            if client is not None:
                _end(client)
            self.aside.close()

    def forked(self) -> None:
        """In the child of a fork: the connection is the parent's, and no thread runs."""
        client, self._client = self._client, None
        if client is not None:
            client.handler.abandon()
        self._mutex = threading.RLock()  # Entering a Condition can be cut short by Ctrl-C, and locks it.
        self._changed = threading.Condition(self._mutex)
        self.aside = Aside("zookeeper")
        self._births: dict[str, tuple[int, str]] = {}
        self._births_mutex = threading.Lock()
        self.watcher.forked()

    # ---- what is known of records ----------------------------------------------------------------

    def birth(self, path: str, czxid: int | None = None) -> str | None:
        """The birth of a record, if it is known; where `czxid` is given, of the one it created alone."""
        known = self._births.get(path)
        return known[1] if known is not None and czxid in (None, known[0]) else None

    def remember(self, path: str, czxid: int, birth: str | None) -> None:
        """Keep a record's birth, or forget it (None)."""
        with self._births_mutex:
            self._births.pop(path, None)
            if birth is not None:
                self._births[path] = (czxid, birth)
                if len(self._births) > _REMEMBERED:
                    del self._births[next(iter(self._births))]


_REMEMBERED: Final = 4096
_sessions: Final[dict[str, Session]] = {}
_sessions_mutex = threading.Lock()


def session_of(url: str, target: Target, user: object) -> Session:
    """The one session of this process for a URL; the user has to release it."""
    with _sessions_mutex:
        session = _sessions.get(url)
        if session is None:
            session = _sessions[url] = Session(target)
        session.users.add(user)
        return session


def _end(client: Any) -> None:
    """Close the session politely if its server listens, and end its threads whether it does or not."""

    def stop() -> None:
        for step in (client.stop, client.close):
            try:
                step()
            except Exception as error:  # Nobody is left whom it could concern.
                client.logger.info("closing: %s", error)

    closer = threading.Thread(target=stop, name="leases-zookeeper-close", daemon=True)
    closer.start()
    closer.join(_GOODBYE)
    if closer.is_alive():
        client.handler.drop()
        closer.join(_END)


def _forked() -> None:
    global _sessions_mutex
    _sessions_mutex = threading.Lock()
    for session in _sessions.values():
        session.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
