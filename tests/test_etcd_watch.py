"""How the etcd store hears of changes: one stream for all names, resumed where it broke."""

from __future__ import annotations

import queue
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from leases.contract import Slot, absent
from leases.errors import StoreUnavailable
from leases.testing._probes import TIMEOUT, Hints, applied, put
from leases_backends import _etcd_messages as messages
from leases_backends._etcd_watch import Watcher
from leases_backends._etcd_wire import Failed
from leases_backends.etcd import Etcd, connect
from servers.etcd import EtcdServer, number
from servers.fixtures import launched
from servers.proxy import Proxy


class Script:
    """An etcd whose streams say what the test wants, and keep what was asked.

    Attributes:
        opened: whether a new token was wanted, for each stream that was opened.
        asked: what the streams were asked.
    """

    def __init__(self) -> None:
        self.opened: list[bool] = []
        self.asked: queue.SimpleQueue[messages.WatchRequest] = queue.SimpleQueue()
        self.moved = 0
        self._stream: _Stream | None = None

    def open_watch(self, requests: Iterator[messages.WatchRequest], *, renew: bool) -> tuple[_Stream, int]:
        self.opened.append(renew)
        self._stream = stream = _Stream()

        def take() -> None:
            for request in requests:
                self.asked.put(request)

        threading.Thread(target=take, daemon=True).start()
        return stream, 0

    def move_on(self, at: int) -> None:
        self.moved += 1

    def created(self, *, key: bytes) -> messages.WatchCreateRequest:
        """The next request, which is to watch this key; it is granted."""
        request = self.asked.get(timeout=TIMEOUT).create_request
        assert request.key == key
        self.say(watch_id=request.watch_id, created=True)
        return request

    def say(self, *, revision: int = 100, **answer: object) -> None:
        header = messages.Header(revision=revision)
        self.put(messages.WatchResponse(header=header, **answer))  # type: ignore[arg-type]

    def put(self, answer: messages.WatchResponse | None) -> None:
        assert self._stream is not None
        self._stream.answers.put(answer)

    def change(self, watch_id: int, *revisions: int) -> None:
        """Deletions, which need no record."""
        events = [
            messages.Event(type=messages.Event.DELETE, kv=messages.KeyValue(mod_revision=revision))
            for revision in revisions
        ]
        self.say(watch_id=watch_id, events=events)


class _Stream:
    def __init__(self) -> None:
        self.answers: queue.SimpleQueue[messages.WatchResponse | None] = queue.SimpleQueue()

    def __iter__(self) -> Iterator[messages.WatchResponse]:
        while (answer := self.answers.get()) is not None:
            yield answer
        raise Failed("UNAVAILABLE", "the stream broke")

    def cancel(self) -> None:
        self.answers.put(None)


def seen(revision: int | None) -> Slot:
    return Slot("job", None, None, revision)


def orders(hints: Hints, count: int) -> list[int | None]:
    """The revisions of so many hints; None where the listener is asked to read."""
    told = [hints.get(timeout=TIMEOUT) for _ in range(count)]
    return [None if slot is None else slot.order for slot in told]


@pytest.fixture
def etcd() -> Script:
    return Script()


@pytest.fixture
def watcher(etcd: Script) -> Iterator[Watcher]:
    made = Watcher(etcd)
    yield made
    made.forget(None)
    made.pause(TIMEOUT)
    _until_gone()


def _until_gone() -> None:
    until = time.monotonic() + TIMEOUT
    while any(thread.name == "leases-etcd-watch" for thread in threading.enumerate()):
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_name_is_watched_from_after_what_was_seen(etcd: Script, watcher: Watcher) -> None:
    """Not from it, which etcd serves every 100 ms only; what is known is not told again."""
    hints = Hints()
    watcher.add(b"job", seen(41), hints, None)
    request = etcd.created(key=b"job")
    assert request.start_revision == 42
    etcd.change(request.watch_id, 41)
    etcd.change(request.watch_id, 43, 44)
    assert orders(hints, 1) == [44]


def test_whoever_never_looked_is_asked_to_read_once_the_watch_stands(etcd: Script, watcher: Watcher) -> None:
    """Not sooner: what happens between the read and the watch would be missed."""
    hints = Hints()
    watcher.add(b"job", seen(None), hints, None)
    request = etcd.asked.get(timeout=TIMEOUT).create_request
    assert request.start_revision == 0 and hints.empty()
    etcd.say(watch_id=request.watch_id, created=True)
    assert orders(hints, 1) == [None]


def test_all_names_share_one_stream_and_equal_names_one_watch(etcd: Script, watcher: Watcher) -> None:
    """A second listener of a name hears what the first has heard since, or is asked to read."""
    first, second, third, other = Hints(), Hints(), Hints(), Hints()
    watcher.add(b"job", seen(41), first, None)
    request = etcd.created(key=b"job")
    watcher.add(b"job", seen(30), second, None)  # The stream does not go back so far.
    assert orders(second, 1) == [None]
    etcd.change(request.watch_id, 50)
    assert orders(first, 1) == orders(second, 1) == [50]
    watcher.add(b"job", seen(45), third, None)
    assert orders(third, 1) == [50]
    watcher.add(b"other", seen(50), other, None)
    etcd.created(key=b"other")
    assert etcd.opened == [False] and first.empty()


def test_after_a_break_names_go_on_after_the_last_event(etcd: Script, watcher: Watcher) -> None:
    """On another endpoint; nothing is told twice."""
    hints = Hints()
    watcher.add(b"job", seen(41), hints, None)
    request = etcd.created(key=b"job")
    etcd.change(request.watch_id, 50)
    assert orders(hints, 1) == [50]
    etcd.put(None)
    request = etcd.created(key=b"job")
    assert request.start_revision == 51 and etcd.moved == 1
    etcd.change(request.watch_id, 60)
    assert orders(hints, 1) == [60]


def test_a_revision_that_is_compacted_asks_to_read(etcd: Script, watcher: Watcher) -> None:
    """S15: the watch goes on after the compaction, under a number of its own."""
    hints = Hints()
    watcher.add(b"job", seen(41), hints, None)
    first = etcd.created(key=b"job")
    etcd.say(watch_id=first.watch_id, canceled=True, compact_revision=90)
    assert orders(hints, 1) == [None]
    second = etcd.created(key=b"job")
    assert second.start_revision == 91 and second.watch_id != first.watch_id
    etcd.change(second.watch_id, 95)
    assert orders(hints, 1) == [95]


def test_a_watch_that_is_refused_is_tried_once_with_a_new_token(etcd: Script, watcher: Watcher) -> None:
    """Then the listener is asked to read, and will be told why; other names go on."""
    hints, others = Hints(), Hints()
    watcher.add(b"job", seen(41), hints, None)
    etcd.asked.get(timeout=TIMEOUT)
    etcd.say(watch_id=-1, created=True, canceled=True, cancel_reason="etcdserver: invalid auth token")
    etcd.asked.get(timeout=TIMEOUT)
    assert etcd.opened == [False, True] and etcd.moved == 0
    etcd.say(watch_id=-1, created=True, canceled=True, cancel_reason="etcdserver: permission denied")
    assert orders(hints, 1) == [None]
    watcher.add(b"other", seen(41), others, None)
    etcd.change(etcd.created(key=b"other").watch_id, 50)
    assert orders(others, 1) == [50] and etcd.opened == [False, True]


def test_a_name_that_nobody_listens_to_is_not_watched(etcd: Script, watcher: Watcher) -> None:
    """Its watch is cancelled, and after a moment without any the stream ends."""
    watch = watcher.add(b"job", seen(41), Hints(), None)
    request = etcd.created(key=b"job")
    watch.close()
    assert etcd.asked.get(timeout=TIMEOUT).cancel_request.watch_id == request.watch_id
    _until_gone()


# On a real one.


@pytest.fixture(scope="module")
def server() -> Iterator[EtcdServer]:
    with launched("etcd") as started:
        yield started


@pytest.fixture
def backend(server: EtcdServer) -> Iterator[Etcd]:
    with closing(connect(server.url_of(path=f"w-{secrets.token_hex(4)}"))) as opened:
        yield opened


def test_a_real_compaction_loses_nothing(server: EtcdServer, backend: Etcd) -> None:
    """Who watches from before it is asked to read, and hears of what comes after."""
    first = put(backend, absent("job"))
    second = put(backend, first)
    third = put(backend, second)
    server.ask("KV/Compact", number(1, third.order or 0))
    hints = Hints()
    with closing(backend.watch(first, hints)):
        hints.expect(third)
        hints.expect(put(backend, third))


def test_a_watch_survives_a_restart(server: EtcdServer, backend: Etcd) -> None:
    """The stream breaks with the server, and tells of a change made when it is back."""
    slot, hints = backend.read("job", TIMEOUT), Hints()
    with closing(backend.watch(slot, hints)):
        slot = put(backend, slot)
        hints.expect(slot)
        server.nodes[0].kill()
        server.nodes[0].start()
        assert _read_when_it_is_back(backend) == slot
        hints.expect(put(backend, slot))


def _read_when_it_is_back(backend: Etcd) -> Slot:
    until = time.monotonic() + TIMEOUT
    while True:
        try:
            return backend.read("job", 2.0)
        except StoreUnavailable:
            assert time.monotonic() < until
            time.sleep(0.05)


def test_a_stream_that_was_cut_goes_on_where_it_was(server: EtcdServer) -> None:
    """A change during the cut is told when the link is back, though nobody asks."""
    at = server.nodes[0].ports["client"]
    with (
        Proxy(at) as proxy,
        closing(connect(f"etcd://{proxy.at}/cut")) as mine,
        closing(connect(server.url_of(path="cut"))) as other,
    ):
        slot, hints = mine.read("job", TIMEOUT), Hints()
        with closing(mine.watch(slot, hints)):
            slot = put(other, slot)
            hints.expect(slot)
            proxy.cut()
            slot = applied(other.swap(slot, None, TIMEOUT))
            proxy.heal()
            hints.expect(slot)
