"""The one session of a process: what it shares, watches and survives, and how it ends."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any, Final

import pytest

from leases import connect as connect_store
from leases.contract import Unknown, absent
from leases.errors import StoreUnavailable
from leases.testing._probes import Hints, a_claim, applied, in_child, put
from leases_backends import _zookeeper_client
from leases_backends._zookeeper_client import _sessions
from leases_backends._zookeeper_handler import Handler
from leases_backends.zookeeper import Zookeeper, connect
from servers import zookeeper as launcher
from servers.fixtures import launched
from servers.process import Node
from servers.proxy import Proxy, Way
from zookeeper_tree import end_session, session_number, tree_of

LONG: Final = 30.0


@pytest.fixture(scope="module")
def alone() -> Iterator[Any]:
    """One server that no other test counts on."""
    with launched("zookeeper") as server:
        yield server


@pytest.fixture(scope="module")
def ensemble() -> Iterator[Any]:
    """Three servers."""
    with launched("zookeeper", nodes=3) as servers:
        yield servers


@pytest.fixture
def whole(ensemble: Any) -> Iterator[Any]:
    """The ensemble, whose servers are brought back afterwards."""
    yield ensemble
    for node in ensemble.nodes:
        if node.running:
            node.thaw()
        else:
            node.start(wait=False)
    for node in ensemble.nodes:
        node.wait_ready()


@pytest.fixture
def use() -> Iterator[Callable[[str], Zookeeper]]:
    """Connects, and closes at the end."""
    with ExitStack() as stack:
        yield lambda url: stack.enter_context(closing(connect(url)))


def place(server: Any, *nodes: Node) -> str:
    """A parent of the test's own."""
    return str(server.url_of(*(nodes or server.nodes), path=f"sessions-{secrets.token_hex(4)}"))


def connections(node: Node) -> int:
    """How many clients a server has, without the one that asks."""
    return len([line for line in launcher.tell(node, "cons").splitlines() if "sid=" in line])


def watches(node: Node) -> int:
    """How many watches a server keeps."""
    return int(launcher.tell(node, "wchs").split("Total watches:")[1])


def eventually(what: Callable[[], bool]) -> None:
    """Wait until something is so."""
    until = time.monotonic() + LONG
    while not what():
        assert time.monotonic() < until
        time.sleep(0.02)


# What is shared.


def test_all_of_a_process_share_one_connection(alone: Any, use: Callable[[str], Zookeeper]) -> None:
    """However many backends, names and watches there are; the last to close it ends the session."""
    url, before, kept = place(alone), connections(alone.nodes[0]), watches(alone.nodes[0])
    backends = [use(url) for _ in range(3)]
    slots = [absent(f"{index}") for index in range(1000)]
    hints = [Hints() for _ in slots]
    held = [backends[i % 3].watch(slots[i], hints[i]) for i in range(1000)]
    eventually(lambda: watches(alone.nodes[0]) == kept + 1000)
    assert connections(alone.nodes[0]) == before + 1
    for index in (0, 500, 999):
        hints[index].expect(put(backends[0], slots[index]))
    backends[0].close()
    backends[1].close()
    slot = put(backends[2], absent("2000"))
    assert backends[2].read("2000", LONG) == slot and connections(alone.nodes[0]) == before + 1
    for watch in held:
        watch.close()
    backends[2].close()
    eventually(lambda: connections(alone.nodes[0]) == before and watches(alone.nodes[0]) == kept)
    assert url not in _sessions


def test_a_closed_watch_is_not_set_again(alone: Any, use: Callable[[str], Zookeeper]) -> None:
    """What it left at the server goes with the next change, and nothing of it is kept here."""
    backend, kept = use(place(alone)), watches(alone.nodes[0])
    slot = put(backend, absent("job"))
    with closing(backend.watch(slot, Hints())):
        eventually(lambda: watches(alone.nodes[0]) == kept + 1)
    put(backend, slot)
    eventually(lambda: watches(alone.nodes[0]) == kept and not backend._session.watcher._heard)


def test_a_hint_carries_the_record(alone: Any, use: Callable[[str], Zookeeper]) -> None:
    """Whoever waits need not read: what is hinted can be swapped on."""
    url = place(alone)
    backend, other, hints = use(url), use(f"{url}?acl=open"), Hints()
    slot = put(other, absent("job"))
    with closing(backend.watch(slot, hints)):
        free = applied(other.swap(slot, None, LONG))
        assert hints.get(timeout=LONG) == free
        hint = put(backend, free)
        assert hints.get(timeout=LONG) == hint


def test_the_end_closes_all_threads_and_sockets(alone: Any) -> None:
    """With the last backend of a URL: nothing runs on, and the server was told."""
    before, clients = threading.active_count(), connections(alone.nodes[0])
    backend = connect(place(alone))
    watch = backend.watch(put(backend, absent("job")), Hints())
    assert connections(alone.nodes[0]) == clients + 1
    backend.close()
    assert threading.active_count() <= before and connections(alone.nodes[0]) == clients
    watch.close()


def test_a_silent_server_does_not_keep_a_process_from_ending(
    alone: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing waits for it a little while, connected or not, and not until the session is given up."""
    monkeypatch.setattr(_zookeeper_client, "SESSION", 40.0)
    before = threading.active_count()
    with Proxy(port=alone.nodes[0].ports["client"]) as proxy:
        threads = threading.active_count()
        backend = connect(f"zookeeper://{proxy.at}/silent")
        put(backend, absent("job"))
        proxy.silence(Way.BACK)
        began = time.monotonic()
        backend.close()
        assert time.monotonic() - began < LONG / 2 and threading.active_count() <= threads
        again = connect(f"zookeeper://{proxy.at}/silent")
        with pytest.raises(StoreUnavailable):
            again.read("job", 0.1)
        began = time.monotonic()
        again.close()
        assert time.monotonic() - began < LONG and threading.active_count() <= threads
    assert threading.active_count() <= before


# Forks.


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_child_leaves_the_session_of_its_parent_alone(alone: Any, use: Callable[[str], Zookeeper]) -> None:
    """It has one of its own, closes what it inherited without a word, and ends as it likes."""
    url = place(alone)
    backend, hints = use(url), Hints()
    slot = put(backend, absent("job"))
    mine, clients = session_number(backend), connections(alone.nodes[0])

    def child() -> None:
        assert backend.read("job", LONG) == slot
        assert session_number(backend) != mine and connections(alone.nodes[0]) == clients + 1
        backend.close()
        os.kill(os.getpid(), signal.SIGKILL)

    with closing(backend.watch(slot, hints)):
        assert in_child(child) == signal.SIGKILL
        eventually(lambda: connections(alone.nodes[0]) == clients)
        with tree_of(url) as tree:
            tree.write("job", b"changed")
        assert hints.get(timeout=LONG) is None
    assert session_number(backend) == mine


# Sessions that end.


def test_a_session_that_ends_takes_no_lease_and_no_hint_with_it(
    alone: Any, use: Callable[[str], Zookeeper]
) -> None:
    """S35: another session follows; what changed between the two is hinted, and so is what changes later."""
    url = place(alone)
    backend, other, hints = use(url), use(f"{url}?acl=open"), Hints()
    with connect_store(url) as store, store.lock("held", ttl=15.0) as lease:
        slot = put(other, absent("job"))
        with closing(backend.watch(slot, hints)):
            ended = end_session(backend)
            slot = put(other, slot)
            hints.expect(slot)
            hints.expect(put(other, slot))
            assert backend.read("job", LONG).held and session_number(backend) != ended
        lease.update({"still": "here"})
        assert lease.held


def test_a_connection_that_breaks_misses_no_change(alone: Any, use: Callable[[str], Zookeeper]) -> None:
    """S17: what was created, changed or deleted meanwhile is hinted when there is a connection again."""
    url = place(alone)
    other = use(url)
    with Proxy(port=alone.nodes[0].ports["client"]) as proxy, tree_of(url) as tree:
        backend = use(url.replace(f"127.0.0.1:{alone.nodes[0].ports['client']}", proxy.at))
        slots = {name: put(other, absent(name)) for name in ("changed", "deleted", "same")}
        slots["created"] = backend.read("created", LONG)
        hints = {name: Hints() for name in slots}
        with ExitStack() as stack:
            for name, slot in slots.items():
                stack.enter_context(closing(backend.watch(slot, hints[name])))
            proxy.refuse()
            changed = put(other, slots["changed"])
            created = put(other, absent("created"))
            tree.delete("deleted")
            proxy.heal()
            hints["changed"].expect(changed)
            hints["created"].expect(created)
            assert hints["deleted"].get(timeout=LONG) is None
            hints["same"].expect(put(other, slots["same"]))


def test_a_client_that_has_ended_is_replaced(alone: Any, use: Callable[[str], Zookeeper]) -> None:
    """Whatever ended it: the next call has a new one, and hints go on."""
    url = place(alone)
    backend, other, hints = use(url), use(f"{url}?acl=open"), Hints()
    slot = put(backend, absent("job"))
    with closing(backend.watch(slot, hints)):
        backend._session.client_now().stop()
        assert backend.read("job", LONG) == slot
        hints.expect(put(other, slot))


def test_patience_grows_with_every_server_that_was_given_up() -> None:
    """Servers that are only slow would never be spoken to else; an answer makes it short again."""
    handler = Handler(None, 1, lambda: None)
    short = handler.patience
    handler.drop()
    assert handler.patience == 2 * short
    for _ in range(10):
        handler.drop()
    assert handler.patience == 8 * short
    handler.answered()
    assert handler.patience == short
    greeting = handler._stall
    handler._stall = 0.01
    left, right = socket.socketpair()
    with left, right:
        assert handler.select([left], [], [], LONG) == (
            [],
            [],
            [],
        )  # In the midst of a message: not for long,
        assert handler._stall == 0.02  # and longer the next time.
        right.send(b"x")
        assert handler.select([left], [], [], LONG) == ([left], [], []) and handler._stall == 0.02
    handler.connected()
    assert handler._stall == greeting


# Ensembles.


def test_a_frozen_server_is_left_for_another(whole: Any, use: Callable[[str], Zookeeper]) -> None:
    """Its connections stay open and silent: whoever is not answered goes elsewhere with the same session."""
    leader = whole.leader()
    follower = next(node for node in whole.nodes if node is not leader)
    rest = [node for node in whole.nodes if node is not follower]
    url = place(whole)
    backend, other = use(url), use(place(whole, *rest))
    _move(backend, follower)
    slot, session = put(backend, backend.read("job", LONG)), session_number(backend)
    follower.freeze()
    until = time.monotonic() + LONG
    while isinstance(backend.swap(slot, a_claim(backend, slot), 1.0), Unknown):
        assert time.monotonic() < until
    assert _peer(backend) != follower.ports["client"] and session_number(backend) == session
    assert other.read("job", LONG).version is None


def test_locks_survive_the_leader(whole: Any) -> None:
    """Killed in the midst of a hold: the lease stands, and is renewed by the others."""
    with connect_store(place(whole)) as store, store.lock("job", ttl=15.0) as lease:
        token = lease.token
        whole.leader().kill()
        lease.update({"after": "the leader"})
        assert lease.held and lease.token == token


def test_a_server_without_a_quorum_is_not_believed(use: Callable[[str], Zookeeper]) -> None:
    """It shows old records to those who are content with reading; to us it shows nothing."""
    readers = {"-Dreadonlymode.enabled": "true", "localSessionsEnabled": "true"}
    with launched("zookeeper", nodes=3, properties=readers) as servers:
        url = place(servers)
        last, *others = servers.nodes
        slot = put(use(url), absent("job"))
        for node in others:
            node.kill()
        eventually(lambda: launcher.mode(last) == "read-only")
        with tree_of(url.replace(url.split("/")[2], last.ports.at("client")), read_only=True) as tree:
            assert tree.client.get(tree.path("job"))[0] == slot.body
        backend = use(place(servers, last))
        with pytest.raises(StoreUnavailable):
            backend.read("job", 1.5)
        outcome = backend.swap(slot, a_claim(backend, slot), 0.3)
        assert isinstance(outcome, Unknown) and outcome.void
        found = {finding.subject: finding.text for finding in backend.examine(4.0)}
        assert found[f"server {last.ports.at('client')}"] == "serves reads only"


def _move(backend: Zookeeper, node: Node) -> None:
    """Have a backend connected to one of its servers: cut its connection until it has come there."""
    backend.read("job", LONG)
    while _peer(backend) != node.ports["client"]:
        backend._session.client_now().handler.drop()
        eventually(lambda: _answers(backend))


def _answers(backend: Zookeeper) -> bool:
    try:
        backend.read("job", LONG)
    except StoreUnavailable:  # It was asked over the connection that was about to end.
        return False
    return backend._session.client_now() is not None


def _peer(backend: Zookeeper) -> int:
    """The port of the server that a backend is connected to."""
    return int(backend._session.client_now().handler._socket.getpeername()[1])
