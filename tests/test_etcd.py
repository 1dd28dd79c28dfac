"""The etcd store: its URL, keys and requests, several endpoints, janitor leases, failures and forks."""

from __future__ import annotations

import itertools
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

import etcd_stubs
from leases import connect as connect_store
from leases.clock import Instant
from leases.contract import Applied, Conflict, Unknown, Verdict, absent
from leases.errors import ConfigurationError, StoreUnavailable
from leases.hub import Hub
from leases.store import Store
from leases.testing._probes import TIMEOUT, Hints, a_claim, applied, in_child, put
from leases_backends import _etcd_messages as messages
from leases_backends._etcd_errors import Fate, NotExecuted, explain, fate
from leases_backends._etcd_janitor import Janitors
from leases_backends._etcd_wire import RANGE, Failed
from leases_backends.etcd import Etcd, connect
from servers.etcd import EtcdServer
from servers.fixtures import launched
from servers.process import frozen


@pytest.fixture(scope="module")
def server() -> Iterator[EtcdServer]:
    with launched("etcd") as started:
        yield started


@pytest.fixture
def backend(server: EtcdServer) -> Iterator[Etcd]:
    with closing(connect(server.url_of(path=f"t-{secrets.token_hex(4)}"))) as opened:
        yield opened


def pairs_of(backend: Etcd, name: str) -> list[messages.KeyValue]:
    """What etcd has under a name's key."""
    question = messages.RangeRequest(key=backend.prefix + name.encode())
    return list(backend._client.call(RANGE, question, TIMEOUT).kvs)


# The URL.


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("etcd://h/app?color=red", "color"),
        ("etcd://user@h/app", "a user without a password"),
        ("etcd://:pw@h/app", "a password without a user"),
        ("etcds://u:pw@h/app?password_file=/x", "two passwords"),
        ("etcd://u@h/app?password_file=/nowhere/at-all", "password_file=/nowhere/at-all cannot be read"),
        ("etcds://h/app?ca=/nowhere/at-all", "ca=/nowhere/at-all cannot be read"),
        ("etcd:///app", "no host"),
    ],
)
def test_a_url_that_cannot_work_is_refused_at_once(url: str, says: str) -> None:
    """Nothing is sent, the fault is named, and no password is repeated."""
    with pytest.raises(ConfigurationError, match=says) as refused:
        connect(url)
    assert "pw" not in str(refused.value)


def test_hosts_in_any_order_are_one_store() -> None:
    """The identity names them sorted, with their ports and the prefix, without user and files."""
    one, other = connect("etcd://u:pw@b,a:9/app"), connect("etcd://u:pw@a:9,b/app")
    with closing(one), closing(other):
        assert one.identity == other.identity == "etcd://a:9,b:2379/app"
        assert one._client is other._client


def test_one_process_has_one_client_for_all_prefixes() -> None:
    """Connections, watches and tokens are shared by host and credentials; other credentials share nothing."""
    opened = [connect(f"etcd://{user}h/{path}") for user in ("", "u:p@") for path in ("x", "y")]
    clients = [one._client for one in opened]
    assert clients[0] is clients[1] and clients[2] is clients[3] and clients[0] is not clients[2]
    for one in opened:
        one.close()
    again = connect("etcd://h/x")
    assert again._client is not clients[0]
    again.close()


# Keys and requests.


def test_a_name_is_its_key_behind_the_prefix(backend: Etcd, server: EtcdServer) -> None:
    """Byte for byte, so that etcdctl shows what there is; without a prefix keys begin with leases/."""
    name = "orders/é %2F 🦊"
    slot = put(backend, absent(name))
    (pair,) = pairs_of(backend, name)
    assert pair.key == backend.prefix + name.encode() and pair.value == slot.body
    with closing(connect(server.url)) as plain:
        assert plain.prefix == b"leases/"


def test_a_token_is_the_revision_of_the_acquiring_write(backend: Etcd) -> None:
    """S57: a takeover does not create, so it is the revision of the write and not that of the creation."""
    first = put(backend, absent("job"))
    second = put(backend, first)
    (pair,) = pairs_of(backend, "job")
    assert second.token == second.version == pair.mod_revision
    assert pair.create_revision == first.token != second.token


def test_acquire_renew_and_release_cost_one_request_each(server: EtcdServer) -> None:
    """Counted by etcd. The lease that is to clean up is asked for once, in the background."""
    with connect_store(server.url_of(path=f"count-{secrets.token_hex(4)}")) as store:
        lock = store.lock("job", ttl=60)
        lock.acquire(timeout=TIMEOUT).release()  # now the connection and the janitor are there
        _until(lambda: store.hub.backend._client.janitors.lease(60.0))  # type: ignore[attr-defined]
        counts = [server.requests()]
        lease = lock.acquire(timeout=TIMEOUT)
        counts.append(server.requests())
        lease.update({"step": "2"}, timeout=TIMEOUT)
        counts.append(server.requests())
        lease.release()
        counts.append(server.requests())
    assert [_more(*two) for two in itertools.pairwise(counts)] == [{"Txn": 1}] * 3


def test_waiting_costs_no_requests(server: EtcdServer) -> None:
    """A waiter that was told what stands there has one stream open and asks nothing more."""
    url = server.url_of(path=f"idle-{secrets.token_hex(4)}")
    with closing(Store(Hub(connect(url)))) as holder, closing(Store(Hub(connect(url)))) as waiter:
        lease = holder.lock("job", ttl=60).acquire(timeout=TIMEOUT)
        got = threading.Event()

        def wait() -> None:
            with waiter.lock("job", ttl=60, timeout=TIMEOUT * 3):
                got.set()

        thread = threading.Thread(target=wait)
        thread.start()
        _until(lambda: server.requests().get("Watch", 0))
        _until(lambda: _steady(server))
        before = server.requests()
        assert not got.wait(1.5)
        assert server.requests() == before
        lease.release()
        thread.join()
    assert got.is_set()


def test_a_scan_goes_through_pages(backend: Etcd, monkeypatch: pytest.MonkeyPatch) -> None:
    """More records than one answer holds come all, once each and in order."""
    monkeypatch.setattr("leases_backends.etcd.PAGE", 3)
    names = sorted(f"n/{index:02}" for index in range(10))
    slots = [put(backend, absent(name)) for name in names]
    assert list(backend.scan("n/", TIMEOUT)) == slots


# Several endpoints.


def test_an_endpoint_that_is_down_is_passed_over(server: EtcdServer) -> None:
    """What surely was not sent goes to the next endpoint in the same call; that is then asked first."""
    url = f"{server.url_of().replace('://', '://127.0.0.1:9,')}/t-{secrets.token_hex(4)}"
    with closing(connect(url)) as backend:
        backend._client._first = backend._client.address.hosts.index(("127.0.0.1", 9))
        slot = put(backend, absent("job"))
        assert backend._client.address.hosts[backend._client._first] != ("127.0.0.1", 9)
        assert backend.read("job", TIMEOUT) == slot


def test_without_any_endpoint_nothing_was_executed() -> None:
    """A swap says that it is void, so nobody has to find out; a read says that nobody is there."""
    with closing(connect("etcd://127.0.0.1:9,localhost:9/x")) as backend:
        outcome = backend.swap(absent("job"), a_claim(backend, absent("job")), 2.0)
        assert isinstance(outcome, Unknown) and outcome.void
        with pytest.raises(StoreUnavailable, match="is it up"):
            backend.read("job", 2.0)


def test_a_cluster_is_used_by_way_of_the_members_that_live() -> None:
    """One member is killed, then the leader stands still: records and tokens go on."""
    with launched("etcd", nodes=3) as cluster, closing(connect(cluster.url_of(path="x"))) as backend:
        slot = put(backend, absent("job"))
        leader = cluster.leader()
        other = next(node for node in cluster.nodes if node is not leader)
        other.kill()
        slot = _swap_until_applied(backend, slot.name)
        other.start()
        with frozen([leader]):
            later = _swap_until_applied(backend, slot.name)
        assert later.token > slot.token


# Janitor leases.


class Grants:
    """A cluster that grants what it is asked for, when told to."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, Callable[[Any], None]]] = []
        self.now = 0.0

    def ask(self, rpc: object, question: Any, timeout: float, done: Callable[[Any], None]) -> None:
        self.asked.append((question.TTL, done))

    def grant(self, *, counts: int | None = None) -> int:
        seconds, done = self.asked[-1]
        done(messages.LeaseGrantResponse(ID=len(self.asked), TTL=counts or seconds))
        return seconds

    def clock(self) -> Instant:
        return Instant(self.now, self.now, self.now)


def test_a_janitor_outlasts_what_anybody_believes() -> None:
    """It is named for half its time, from before it was asked for; then writes name none until the next."""
    cluster = Grants()
    janitors = Janitors(cluster, cluster.clock)
    janitors.replenish(15.0)
    assert janitors.lease(15.0) == 0  # Nobody waits for it.
    cluster.now = 4.0
    assert cluster.grant() == 150
    assert janitors.lease(15.0) == 1
    cluster.now = 74.9
    janitors.replenish(15.0)
    assert janitors.lease(15.0) == 1 and len(cluster.asked) == 1
    cluster.now = 75.0
    assert janitors.lease(15.0) == 0
    janitors.replenish(15.0)
    assert cluster.grant() == 150 and janitors.lease(15.0) == 2


def test_a_long_lock_does_not_use_a_short_janitor() -> None:
    """S61 `janitor_shorter_than_ttl`: it gets one of its own, which others then use too."""
    cluster = Grants()
    janitors = Janitors(cluster, cluster.clock)
    janitors.replenish(1.0)
    assert cluster.grant() == 60 and janitors.lease(6.0) == 1
    assert janitors.lease(6.1) == 0
    janitors.replenish(300.0)
    assert cluster.grant() == 3000 and janitors.lease(300.0) == janitors.lease(1.0) == 2


def test_a_janitor_that_is_granted_for_less_is_used_for_less() -> None:
    """What counts is what etcd says that it granted."""
    cluster = Grants()
    janitors = Janitors(cluster, cluster.clock)
    janitors.replenish(15.0)
    cluster.grant(counts=100)
    assert janitors.lease(15.0) == 0 and janitors.lease(10.0) == 1


def test_a_takeover_does_not_inherit_the_janitor(server: EtcdServer, backend: Etcd) -> None:
    """S62 `takeover_does_not_inherit_janitor`: a write names its writer's own, or none."""
    slot = put(backend, absent("job"))
    _until(lambda: backend._client.janitors.lease(15.0))
    slot = put(backend, slot)
    mine = backend._client.janitors.lease(15.0)
    assert pairs_of(backend, "job")[0].lease == mine != 0
    backend._client.janitors.gone(mine)
    put(backend, slot)
    assert pairs_of(backend, "job")[0].lease == 0


def test_a_janitor_that_is_gone_is_not_named_again(server: EtcdServer, backend: Etcd) -> None:
    """The write that named it was not executed and says so; the next does without."""
    slot = put(backend, absent("job"))
    _until(lambda: backend._client.janitors.lease(15.0))
    server.ask("Lease/LeaseRevoke", b"\x08" + _varint(backend._client.janitors.lease(15.0)))
    outcome = backend.swap(slot, a_claim(backend, slot), TIMEOUT)
    assert isinstance(outcome, Unknown) and outcome.void
    assert put(backend, slot).held


# Failures.


@pytest.mark.parametrize(
    ("said", "means"),
    [
        ("etcdserver: no leader", Fate.ELSEWHERE),
        ("failed to connect to all addresses; last error: …", Fate.ELSEWHERE),
        ("etcdserver: too many requests", Fate.VOID),
        ("etcdserver: mvcc: database space exceeded", Fate.DOUBT),
        ("etcdserver: invalid auth token", Fate.STALE),
        ("etcdserver: permission denied", Fate.DENIED),
        ("etcdserver: request timed out", Fate.DOUBT),
        ("etcdserver: leader changed", Fate.DOUBT),
        ("etcdserver: server stopped", Fate.DOUBT),
        ("Socket closed", Fate.DOUBT),
        ("anything that a later etcd may say", Fate.DOUBT),
    ],
)
def test_only_what_is_known_not_to_be_executed_counts_as_that(said: str, means: Fate) -> None:
    """Everything else is in doubt, and the error says the same."""
    failed = Failed("UNAVAILABLE", said)
    assert fate(failed) is means
    surely_not = isinstance(explain(failed, "etcd://h:2379/x", "h:2379", "me", 1.0), NotExecuted)
    assert surely_not or means in (Fate.DENIED, Fate.DOUBT)
    assert not (surely_not and means is Fate.DOUBT)


def test_what_is_kept_of_a_failure_keeps_no_connection() -> None:
    """An error lives as long as somebody shows it; its frames would keep the socket and the token."""
    with closing(connect("etcd://127.0.0.1:9/x")) as backend:
        outcome = backend.swap(absent("job"), a_claim(backend, absent("job")), 2.0)
    assert isinstance(outcome, Unknown)
    cause = outcome.cause.__cause__ if outcome.cause is not None else None
    assert isinstance(cause, Failed) and cause.__traceback__ is None
    assert cause.__cause__ is not None and cause.__cause__.__traceback__ is None


def test_a_conflict_tells_what_stands_there(backend: Etcd) -> None:
    """In the same round trip, with the revision of the transaction where nothing does."""
    slot = put(backend, absent("job"))
    gone = applied(backend.swap(slot, None, TIMEOUT))
    outcome = backend.swap(slot, a_claim(backend, slot), TIMEOUT)
    assert isinstance(outcome, Conflict) and outcome.slot is not None
    assert outcome.slot.version is None and outcome.slot.order is not None and gone.order is not None
    assert outcome.slot.order >= gone.order


# Forks.


def test_forks_amid_requests_and_watches_harm_nobody(backend: Etcd) -> None:
    """Children take locks of their own and inherit no connection; the parent's requests and watches go on."""
    slot, stop = backend.read("watched", TIMEOUT), threading.Event()
    trouble: list[object] = []

    def work(name: str) -> None:
        mine = absent(name)
        while not stop.is_set():
            outcome = backend.swap(mine, a_claim(backend, mine), TIMEOUT)
            if isinstance(outcome, Applied):
                mine = outcome.slot
            else:
                trouble.append(outcome)
                mine = backend.read(name, TIMEOUT)

    threads = [threading.Thread(target=work, args=(f"thread-{index}",)) for index in range(3)]
    for thread in threads:
        thread.start()
    hints = Hints()
    with closing(backend.watch(slot, hints)):
        for index in range(4):
            assert in_child(lambda index=index: _lock_in_child(backend, f"child-{index}")) == 0  # type: ignore[misc]
            slot = put(backend, slot)
            hints.expect(slot)
    stop.set()
    for thread in threads:
        thread.join()
    assert not trouble


def test_a_fork_finds_no_connection(backend: Etcd) -> None:
    """Neither the one for requests nor that of a watch; afterwards both are there again."""
    slot, hints = put(backend, absent("job")), Hints()
    with closing(backend.watch(slot, hints)):
        assert _sockets()
        backend._client.before_fork()
        try:
            _until(lambda: not _sockets())
        finally:
            backend._client.after_fork()
        hints.expect(put(backend, slot))


def _lock_in_child(backend: Etcd, name: str) -> None:
    assert not _sockets()  # Of the parent's; then it makes its own.
    applied(backend.swap(put(backend, absent(name)), None, TIMEOUT))


def _sockets() -> list[str]:
    """The TCP connections that this process has."""
    told: list[str] = []
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # The folder's own is gone by now.
            told.append(str(link.readlink()))
    connected = _tcp()
    return [one for one in told if one.startswith("socket:") and int(one[8:-1]) in connected]


def _tcp() -> set[int]:
    tables = [Path("/proc/net") / name for name in ("tcp", "tcp6")]
    lines = [line.split() for table in tables for line in table.read_text().splitlines()[1:]]
    return {int(fields[9]) for fields in lines if fields[3] == "01"}  # established


def test_greenlets_wait_for_one_another(server: EtcdServer) -> None:
    """With gevent's patched threads a waiter is handed the lock by its watch, and the loop goes on."""
    script = """
from gevent import monkey
monkey.patch_all()
import sys, gevent
from leases.hub import Hub
from leases.registry import open_backend
from leases.store import Store
mine, theirs = (Store(Hub(open_backend(sys.argv[1]))) for _ in range(2))
ticks = []
def tick():
    while True:
        ticks.append(1)
        gevent.sleep(0.01)
def wait():
    with theirs.lock("job", ttl=60, timeout=30):
        return len(ticks)
ticker = gevent.spawn(tick)
with mine.lock("job", ttl=60, timeout=30) as lease:
    waiter = gevent.spawn(wait)
    while len(ticks) < 50:
        gevent.sleep(0.01)
    assert lease.held and not waiter.ready()
assert waiter.get(timeout=30) >= 50
ticker.kill()
mine.close()
theirs.close()
"""
    command = [sys.executable, "-W", "error", "-c", script, server.url_of(path=f"g-{secrets.token_hex(4)}")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr


# What it says of itself.


def test_an_examination_finds_version_health_and_permissions(backend: Etcd) -> None:
    """All is well, except that everybody may do everything; nothing is written."""
    before = backend.read("leases-examination", TIMEOUT)
    found = {finding.subject: finding for finding in backend.examine(TIMEOUT)}
    assert set(found) >= {"reach", "version", "health", "permission to read", "permission to write"}
    assert not [finding for finding in found.values() if finding.verdict is Verdict.BAD]
    assert backend.read("leases-examination", TIMEOUT).order == before.order


def test_an_examination_of_nobody_is_a_finding() -> None:
    """It raises nothing, and says what cannot be reached."""
    with closing(connect("etcd://127.0.0.1:9/x")) as backend:
        (found,) = backend.examine(2.0)
    assert (found.subject, found.verdict) == ("reach", Verdict.BAD)


@pytest.mark.slow
def test_the_messages_are_what_the_proto_says() -> None:
    """What protoc makes of _etcd.proto now is what was committed."""
    assert etcd_stubs.make() == tuple(path.read_text(encoding="utf-8") for path in etcd_stubs.STUBS)


def test_another_etcd_client_may_live_in_the_same_process() -> None:
    """Messages of the same names in the pool that all share are no conflict."""
    script = """
from google.protobuf import descriptor_pb2, descriptor_pool
from leases_backends import _etcd_messages
file = descriptor_pb2.FileDescriptorProto.FromString(_etcd_messages._DESCRIPTOR)
file.name = "somebody_elses.proto"
descriptor_pool.Default().AddSerializedFile(file.SerializeToString())
import leases_backends.etcd
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def _swap_until_applied(backend: Etcd, name: str) -> Any:
    """As the protocol would: read after what is unknown, and try again, for half a minute."""
    until = time.monotonic() + 30.0
    while time.monotonic() < until:
        try:
            seen = backend.read(name, 2.0)
        except StoreUnavailable:
            continue
        outcome = backend.swap(seen, a_claim(backend, seen), 2.0)
        if isinstance(outcome, Applied):
            return outcome.slot
    raise AssertionError("nothing could be written for half a minute")


def _until(true: Callable[[], object]) -> None:
    until = time.monotonic() + TIMEOUT
    while not true():
        assert time.monotonic() < until
        time.sleep(0.01)


def _more(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    """What was asked in between."""
    grown = {name: number - before.get(name, 0) for name, number in after.items()}
    return {name: number for name, number in grown.items() if number}


def _steady(server: EtcdServer) -> bool:
    before = server.requests()
    time.sleep(0.3)
    return server.requests() == before


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
