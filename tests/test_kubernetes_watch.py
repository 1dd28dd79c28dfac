"""Waking who waits on Kubernetes: one stream however many names, and nothing missed when it breaks."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from urllib3.exceptions import NewConnectionError

from leases.contract import Applied, Slot, Unknown, absent
from leases.errors import StoreDenied
from leases.testing._probes import Hints, a_claim, in_child, number, put
from leases_backends import kubernetes as backend
from leases_backends._kubernetes_client import Answer, _open
from leases_backends._kubernetes_site import Grants
from leases_backends._kubernetes_watch import _LINGER
from servers.kubernetes import KubernetesServer, own
from servers.proxy import Proxy, Way

TIMEOUT = 10.0


@pytest.fixture
def kubernetes(kubernetes: object) -> KubernetesServer:
    return own(kubernetes)


@pytest.fixture
def url(kubernetes: KubernetesServer) -> str:
    """A namespace of the test's own."""
    return kubernetes.namespace(f"watch-{secrets.token_hex(4)}")


@pytest.fixture
def store(url: str) -> Iterator[backend.Kubernetes]:
    with closing(backend.connect(url)) as store:
        yield store


@pytest.fixture
def proxy(kubernetes: KubernetesServer) -> Iterator[Proxy]:
    """A link to the API server that can be cut."""
    with Proxy(kubernetes.nodes[-1].ports["https"]) as proxy:
        yield proxy


@pytest.fixture
def far(kubernetes: KubernetesServer, proxy: Proxy, url: str) -> Iterator[backend.Kubernetes]:
    """The same namespace by way of that link."""
    cluster = {"server": f"https://{proxy.at}"}
    kubeconfig = kubernetes.kubeconfig(f"far-{proxy.port}", {"token": kubernetes.admin}, cluster=cluster)
    namespace = url.partition("//")[2].partition("?")[0]
    with closing(backend.connect(kubernetes.url_of(namespace, kubeconfig))) as store:
        yield store


def streams(store: backend.Kubernetes) -> set[str | None]:
    """What is watched: names, and None for all of the namespace."""
    return set(store._site.watcher._streams)


def threads() -> list[str]:
    """The threads of this store."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("leases-kubernetes")]


def until(true: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait until a function says something true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.01)


def test_one_name_is_watched_alone_and_more_by_one_stream(store: backend.Kubernetes) -> None:
    """Neither threads nor connections grow with names, and each change is told where it belongs."""
    slots = [store.read(f"job-{index}", TIMEOUT) for index in range(30)]
    hints = [Hints() for _ in slots]
    watches = [store.watch(slots[0], hints[0])]
    assert streams(store) == {"job-0"}
    hints[0].expect(put(store, slots[0]))
    watches += [store.watch(slot, hint) for slot, hint in zip(slots[1:], hints[1:], strict=True)]
    assert streams(store) == {None}
    for slot, hint in zip(slots[1:], hints[1:], strict=True):
        hint.expect(put(store, slot))
    until(lambda: len(threads()) == 1)
    assert len(_open) <= 3
    for watch in watches:
        watch.close()


def test_a_hint_shows_what_stands_there_now(store: backend.Kubernetes) -> None:
    """No read is needed: also a removal is told, with its number, and a free record."""
    hints = Hints()
    slot = put(store, absent("job"))
    with closing(store.watch(slot, hints)):
        free = store.swap(slot, None, TIMEOUT)
        assert hints.get(timeout=TIMEOUT) == getattr(free, "slot", None)
        store.remove(store.read("job", TIMEOUT), TIMEOUT)
        gone = hints.get(timeout=TIMEOUT)
        assert gone is not None and gone.version is None and number(gone.order) > number(slot.order)


def test_a_stream_waits_for_the_next_for_a_while(store: backend.Kubernetes) -> None:
    """Who comes back to the lock finds it open; with the first event after that while it ends."""
    slot = put(store, absent("job"))
    store.watch(slot, Hints()).close()
    first = store._site.watcher._streams["job"]
    hints = Hints()
    watch = store.watch(slot, hints)
    assert store._site.watcher._streams["job"] is first
    slot = put(store, slot)
    hints.expect(slot)
    watch.close()
    store._site.watcher._empty_since -= _LINGER + 1
    put(store, slot)
    until(lambda: not streams(store) and not threads())


def test_what_has_changed_before_is_told_though_the_stream_is_older(store: backend.Kubernetes) -> None:
    """Whoever joins a stream that has told of it already, or that began after it, is asked to read."""
    slot = put(store, absent("job"))
    later = put(store, slot)
    latest = put(store, later)
    with closing(store.watch(later, early := Hints())):
        early.expect(latest)
        for seen in (absent("job"), slot, later):
            with closing(store.watch(seen, hints := Hints())):
                hints.expect(latest)
        with closing(store.watch(latest, hints := Hints())):
            hints.expect(put(store, latest))
            assert hints.empty()


def test_nobody_is_told_what_he_has_seen(store: backend.Kubernetes) -> None:
    """A stream begins where the oldest watch has read, and goes on where it was; others know that part."""
    slow = put(store, absent("slow"))
    quick = put(store, put(store, absent("quick")))
    slower = put(store, slow)
    with (
        closing(store.watch(quick, quick_hints := Hints())),
        closing(store.watch(slow, slow_hints := Hints())),
    ):
        slow_hints.expect(slower)
        quick = put(store, quick)
        assert quick_hints.get(timeout=TIMEOUT) == quick
        assert quick_hints.empty()
        stream = store._site.watcher._streams[None]
        until(lambda: stream._position == str(quick.order))


def test_a_beginning_that_is_forgotten_is_a_gap(
    store: backend.Kubernetes, kubernetes: KubernetesServer
) -> None:
    """An API server that was restarted answers 410: who waits is to read, and is told from there on."""
    old = put(store, absent("job"))
    slot = put(store, old)
    with closing(store.watch(slot, hints := Hints())):
        hints.expect(slot := put(store, slot))
        kubernetes.nodes[-1].kill()
        kubernetes.nodes[-1].start()
        with closing(store.watch(Slot("other", None, order=old.order, floor=0), others := Hints())):
            assert others.get(timeout=TIMEOUT) is None
            others.expect(put(store, absent("other")))
        hints.expect(put(store, slot))


def test_what_was_allowed_once_and_is_refused_is_tried_again(store: backend.Kubernetes) -> None:
    """An API server refuses everybody for a moment after its start: one stream goes on for all."""
    slots = [put(store, absent(name)) for name in ("one", "two")]
    with closing(store.watch(slots[0], Hints())), closing(store.watch(slots[1], hints := Hints())):
        hints.expect(slot := put(store, slots[1]))
        until(lambda: streams(store) == {None})
        refusal = Answer(403, {"message": 'User "me" cannot watch resource "leases"'}, {})
        with pytest.raises(StoreDenied):
            store._site.watcher._streams[None]._refused(refusal)
        assert streams(store) == {None}
        hints.expect(put(store, slot))


def test_a_name_that_was_never_read_can_be_watched(store: backend.Kubernetes) -> None:
    """There is no number to begin at: who waits is asked to read, and then told."""
    hints = Hints()
    with closing(store.watch(absent("job"), hints)):
        assert hints.get(timeout=TIMEOUT) is None
        hints.expect(put(store, absent("job")))


def test_a_stream_that_breaks_goes_on_where_it_ended(
    far: backend.Kubernetes, store: backend.Kubernetes, proxy: Proxy
) -> None:
    """What happened while it was cut is told when the link is there again, once."""
    slot = put(store, absent("job"))
    hints = Hints()
    with closing(far.watch(slot, hints)):
        hints.expect(slot := put(store, slot))
        proxy.refuse()
        proxy.cut()
        slot = put(store, slot)
        proxy.heal()
        assert hints.get(timeout=TIMEOUT) == slot
        assert hints.empty()


def test_nothing_is_left_after_the_last_user(url: str) -> None:
    """Connection and watch are shared by all who connect by one URL, and end with the last of them."""
    one, two = backend.connect(url), backend.connect(url)
    assert one._site is two._site
    slot = put(one, absent("job"))
    with closing(two.watch(slot, hints := Hints())):
        one.close()
        hints.expect(put(two, slot))
        assert _open and threads()
        two.close()
    assert not threads() and not _open
    with closing(backend.connect(url)) as three:
        assert three._site is not one._site


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_child_of_a_fork_has_none_of_its_parent_s_connections(store: backend.Kubernetes) -> None:
    """Their descriptors are closed without a word; the parent's watch goes on."""
    slot = put(store, absent("job"))
    with closing(store.watch(slot, hints := Hints())):
        hints.expect(slot := put(store, slot))
        until(lambda: len(_open) >= 2)  # for it may have come by a look, before the watch was open
        inherited = [connection.sock.fileno() for connection in _open]

        def child() -> None:
            assert not _open and not streams(store)
            for descriptor in inherited:
                with pytest.raises(OSError, match="Bad file descriptor"):
                    os.fstat(descriptor)

        assert in_child(child) == 0
        hints.expect(put(store, slot))


def test_what_surely_was_not_done_is_told_from_what_nobody_knows(
    kubernetes: KubernetesServer, far: backend.Kubernetes, proxy: Proxy
) -> None:
    """Nobody listens: void. The answer does not come, or the connection ends: unknown, and sent once."""
    slot = put(far, absent("job"))
    proxy.silence(Way.BACK)
    began = time.monotonic()
    lost = far.swap(slot, a_claim(far, slot), 0.3)
    assert isinstance(lost, Unknown) and not lost.void and time.monotonic() - began < TIMEOUT
    proxy.cut()
    proxy.heal()
    written = far.read("job", TIMEOUT)
    assert written.order is not None and written.version != slot.version  # it was done, and once
    nobody = kubernetes.kubeconfig("nobody", {"token": "t"}, cluster={"server": "https://127.0.0.1:9"})
    with closing(backend.connect(kubernetes.url_of("default", nobody))) as alone:
        outcome = alone.swap(absent("job"), a_claim(alone, absent("job")), TIMEOUT)
        assert isinstance(outcome, Unknown) and outcome.void
        assert "cannot be reached" in str(outcome.cause)


@pytest.mark.parametrize("other", [NewConnectionError, ssl.SSLCertVerificationError])
def test_the_trouble_of_others_says_nothing_about_a_request(
    far: backend.Kubernetes, proxy: Proxy, other: type[Exception]
) -> None:
    """A lock is often released while an error of the work goes by, which may be of the same kind as ours."""
    slot = put(far, absent("job"))
    try:
        raise other.__new__(other)
    except other:
        proxy.silence(Way.BACK)
        lost = far.swap(slot, a_claim(far, slot), 0.3)
    assert isinstance(lost, Unknown) and not lost.void


def test_a_proxy_of_the_kubeconfig_is_gone_through(
    kubernetes: KubernetesServer, url: str, tmp_path: Path
) -> None:
    """`proxy-url`, with the password that it may hold, which nobody is shown."""
    with tunnel() as (port, asked):
        cluster = {"proxy-url": f"http://me:hidden-word@127.0.0.1:{port}"}
        kubeconfig = kubernetes.kubeconfig("tunnel", {"token": kubernetes.admin}, cluster=cluster)
        namespace = url.partition("//")[2].partition("?")[0]
        with closing(backend.connect(kubernetes.url_of(namespace, kubeconfig))) as store:
            assert put(store, store.read("job", TIMEOUT)).held
            assert "hidden-word" not in store.identity + repr(store._site.client.access)
    assert asked and b"CONNECT 127.0.0.1:" in asked[0] and b"roxy-" in asked[0]


@contextlib.contextmanager
def tunnel() -> Generator[tuple[int, list[bytes]]]:
    """An HTTP proxy that knows CONNECT; what it was asked."""
    asked: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(65536):
                sink.sendall(chunk)
            sink.shutdown(socket.SHUT_WR)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                head = client.recv(65536)
                asked.append(head)
                host, _, port = head.split(b" ")[1].partition(b":")
                server = socket.create_connection((host.decode(), int(port)))
                client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                back = threading.Thread(target=pump, args=(server, client), daemon=True)
                back.start()
                pump(client, server)
                back.join()
                client.close()
                server.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1], asked
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(TIMEOUT)


def test_a_verb_that_was_allowed_is_not_forbidden_by_a_server_that_has_just_started() -> None:
    """For ten seconds such a refusal is no answer; later, or for what never was allowed, it is one."""
    grants = Grants()
    assert not grants.may_come_back("update", "job", 0.0)
    grants.allow("update", "job")
    assert grants.may_come_back("update", "job", 5.0) and grants.may_come_back("update", "job", 14.0)
    assert not grants.may_come_back("update", "job", 15.5)
    assert not grants.may_come_back("update", "other", 6.0)
    grants.allow("update", "job")
    assert grants.may_come_back("update", "job", 100.0)


def test_a_refusal_just_after_a_start_ends_no_waiting(
    store: backend.Kubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was done before is void for the moment; what never was is denied, with the missing verb."""
    store._site.grants = Grants()
    slot = put(store, absent("job"))
    refusal = Answer(403, {"message": 'User "me" cannot update resource "leases"'}, {})
    with monkeypatch.context() as patched:
        patched.setattr(store._site.client, "call", lambda *_: refusal)
        with pytest.raises(StoreDenied, match="'update' is missing"):
            store.swap(slot, None, 5.0)
    released = store.swap(slot, None, 5.0)
    assert isinstance(released, Applied)
    with monkeypatch.context() as patched:
        patched.setattr(store._site.client, "call", lambda *_: refusal)
        found = store.swap(released.slot, a_claim(store, released.slot), 5.0)
    assert isinstance(found, Unknown) and found.void and "just started" in str(found.cause)
