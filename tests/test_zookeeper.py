"""What is special to ZooKeeper: nodes created anew, versions, parents, names, answers that do not come."""

from __future__ import annotations

import itertools
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leases import connect as connect_store
from leases.contract import Applied, Slot, Unknown, absent, names
from leases.errors import RecordRefused, StoreUnavailable
from leases.record import encode
from leases.testing._probes import a_claim, applied, conflicted, number, put
from leases_backends._zookeeper_nodes import BIRTH, is_path, name_of, node_of
from leases_backends.zookeeper import Zookeeper, connect
from servers.fixtures import Shared
from servers.proxy import Proxy, Way
from servers.requests import ZooKeeper as Requests
from zookeeper_tree import Tree, tree_of

LONG: Final = 30.0
_count: Final = itertools.count()
_run: Final = secrets.token_hex(3)


@pytest.fixture
def url(zookeeper: Shared) -> str:
    """A parent of the test's own."""
    return f"{zookeeper.url}/special-{_run}-{next(_count)}"


@pytest.fixture
def use() -> Iterator[Callable[[str], Zookeeper]]:
    """Connects, and closes at the end."""
    with ExitStack() as stack:
        yield lambda url: stack.enter_context(closing(connect(url)))


@pytest.fixture
def backend(url: str, use: Callable[[str], Zookeeper]) -> Zookeeper:
    return use(url)


@pytest.fixture
def tree(url: str) -> Iterator[Tree]:
    with tree_of(url) as tree:
        yield tree


# A node that is created anew.


def test_S25_a_stale_swap_does_not_hit_a_record_that_was_created_anew(
    backend: Zookeeper, url: str, use: Callable[[str], Zookeeper], tree: Tree
) -> None:
    """Not even where its version has come to the same number: neither write, nor release, nor removal."""
    other = use(f"{url}?acl=open")
    seen = put(backend, put(backend, absent("job")))
    tree.delete("job")
    now = put(other, other.read("job", LONG))
    while stamp(now)[1] < stamp(seen)[1]:
        now = put(other, now)
    assert tree.version("job") == stamp(seen)[1]
    conflicted(backend.swap(seen, a_claim(backend, seen), LONG), now)
    conflicted(backend.swap(seen, None, LONG), now)
    conflicted(backend.remove(seen, LONG), now)
    assert backend.read("job", LONG) == other.read("job", LONG) == now


def test_S67_a_stale_swap_does_not_hit_what_follows_a_removal(backend: Zookeeper) -> None:
    """The same when it was one of us who removed it."""
    seen = put(backend, put(backend, absent("job")))
    gone = applied(backend.remove(seen, LONG))
    assert gone.version is None and gone.floor > seen.floor
    now = put(backend, put(backend, gone))
    assert stamp(now)[1] == stamp(seen)[1]
    conflicted(backend.swap(seen, a_claim(backend, seen), LONG), now)
    conflicted(backend.remove(seen, LONG), now)


def test_a_swap_by_who_has_never_seen_the_record_checks_its_birth_too(
    backend: Zookeeper, url: str, use: Callable[[str], Zookeeper], tree: Tree
) -> None:
    """A slot may have been remembered by another process: the birth is looked up, and compared."""
    other = use(f"{url}?acl=open")
    seen = put(backend, absent("job"))
    renewed = put(other, seen)
    tree.delete("job")
    put(backend, backend.read("job", LONG))
    stranger = use(f"{url}?acl=open".replace("://", "://nobody:knows@"))
    stale = replace(renewed, version=(stamp(renewed)[0], 1))
    conflicted(stranger.swap(stale, a_claim(stranger, stale), LONG))


def test_tokens_go_on_rising_when_records_and_parents_are_deleted(
    backend: Zookeeper, url: str, use: Callable[[str], Zookeeper], tree: Tree
) -> None:
    """What ZooKeeper forgets of a node, its nearest parent that is left still knows."""
    tokens = [number(put(backend, absent("job")).token)]
    for what in (tree.path("job"), tree.parent, tree.path("job")):
        slot = backend.read("job", LONG)
        for _ in range(3):
            slot = put(backend, slot)
        tokens.append(number(slot.token))
        tree.client.delete(what, recursive=True)
        gone = use(f"{url}?acl=open").read("job", LONG)
        assert gone.version is None and gone.floor > tokens[-1] and number(gone.order) > number(slot.order)
        tokens.append(number(put(backend, gone).token))
    assert tokens == sorted(set(tokens))


def test_a_record_that_came_without_its_birth_is_used_like_any_other(backend: Zookeeper, tree: Tree) -> None:
    """Whoever restored it by hand wrote the record alone; the first swap gives it a birth."""
    tree.write("job", encode(a_claim(backend, absent("job"))))
    slot = put(backend, backend.read("job", LONG))
    births = tree.client.get_children(tree.path("job"))
    assert len(births) == 1 and births[0].startswith(BIRTH)
    assert put(backend, slot).held


def test_an_absence_is_read_behind_a_sync(
    zookeeper: Shared, use: Callable[[str], Zookeeper], url: str
) -> None:
    """A server that lags must not say what tokens begin with; a record that is known costs one request."""
    with _proxied(zookeeper) as proxy:
        backend = use(url.replace(urlsplit(url).netloc, proxy.at))
        put(backend, backend.read("warm", LONG))
        before = proxy.count()
        slot = backend.read("job", LONG)
        assert (proxy.count() - before).requests["sync"] == 1
        put(backend, slot)
        before = proxy.count()
        backend.read("job", LONG)
        assert (proxy.count() - before).requests == {"getData": 1}


# Versions.


def test_the_version_that_means_any_is_never_sent(backend: Zookeeper, tree: Tree) -> None:
    """A node whose version has come around to −1 is refused, and left as it is."""
    slot = put(backend, absent("job"))
    around = replace(slot, version=(stamp(slot)[0], -1))
    for claim in (a_claim(backend, around), None):
        with pytest.raises(RecordRefused, match="cannot be checked"):
            backend.swap(around, claim, LONG)
    with pytest.raises(RecordRefused, match="cannot be checked"):
        backend.remove(around, LONG)
    assert backend.read("job", LONG) == slot and tree.version("job") == 1


def test_negative_versions_are_versions(backend: Zookeeper) -> None:
    """A 32-bit counter passes through them on its way around: they conflict like any other."""
    slot = put(backend, absent("job"))
    below = replace(slot, version=(stamp(slot)[0], -2))
    conflicted(backend.swap(below, a_claim(backend, below), LONG), slot)


# Parents.


@pytest.mark.parametrize("path", ["", "/deep/er/still", "/with space", "/ünïcode", "/%25"])
def test_parents_are_made_when_they_are_needed(
    zookeeper: Shared, use: Callable[[str], Zookeeper], path: str
) -> None:
    """Reading, listing and watching make nothing; the first record makes all that is above it."""
    url = f"{zookeeper.url}/parents-{_run}-{next(_count)}{path}"
    backend = use(url)
    slot = backend.read("job", LONG)
    assert slot.version is None and list(backend.scan("", LONG)) == []
    put(backend, slot)
    assert [found.name for found in names(backend.scan("", LONG))] == ["job"]


def test_a_parent_that_vanishes_is_made_again(backend: Zookeeper, tree: Tree) -> None:
    """A container node goes with its last record; the next record brings it back."""
    slot = put(backend, absent("job"))
    tree.client.delete(tree.parent, recursive=True)
    conflicted(backend.swap(slot, a_claim(backend, slot), LONG))
    assert backend.read("job", LONG).version is None
    assert put(backend, absent("job")).held


def test_two_who_make_the_same_parents_do_not_trip_each_other(
    zookeeper: Shared, use: Callable[[str], Zookeeper]
) -> None:
    """Many first records at once, in one new place."""
    url = f"{zookeeper.url}/parents-{_run}-{next(_count)}/a/b/c"
    backends = [use(f"{url}{end}") for end in ("", "?acl=open")]
    outcomes: list[object] = []
    start = threading.Barrier(8)

    def create(index: int) -> None:
        mine = backends[index % 2]
        mine.read("warm", LONG)
        start.wait()
        outcomes.append(mine.swap(absent(f"{index}"), a_claim(mine, absent("x")), LONG))

    threads = [threading.Thread(target=create, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(isinstance(outcome, Applied) for outcome in outcomes) and len(outcomes) == 8


# Names.


@settings(max_examples=300)
@given(st.text(min_size=1, max_size=60))
def test_every_name_has_a_node_of_its_own(name: str) -> None:
    """One to one, in one step below the parent, and without what ZooKeeper does not take."""
    node = node_of(name)
    assert name_of(node) == name
    assert node not in (".", "..") and "/" not in node and is_path(f"x/{node}")


def test_names_that_no_lock_has_are_not_taken_for_one() -> None:
    """Other spellings of the same name, and what is no UTF-8."""
    for node in ("%2f", "%41", "%", "%zz", "%FF", ".", "a%2", "%F0%9F%A6"):
        assert name_of(node) is None


def test_every_kind_of_character_is_taken_by_the_server(backend: Zookeeper, tree: Tree) -> None:
    """Where ZooKeeper or Java draws a line, and readable wherever it does not."""
    edges = [
        0x20,
        0x7E,
        0xA0,
        0xD7FF,
        0xE000,
        0xF8FF,
        0xF900,
        0xFFEF,
        0xFFF0,
        0xFFFD,
        0xFFFF,
        0x10000,
        0x10FFFF,
    ]
    wanted = sorted(f"x{chr(point)}y" for point in edges)
    for name in wanted:
        assert put(backend, absent(name)).name == name
    assert [slot.name for slot in names(backend.scan("x", LONG))] == wanted
    put(backend, absent("größe/名前 1"))
    assert "größe%2F名前 1" in tree.client.get_children(tree.parent)


def test_a_scan_of_more_than_one_batch_shows_all(backend: Zookeeper) -> None:
    """Many records are asked for in several goes; a node that is no lock's is shown as refused."""
    wanted = [f"many/{index:03}" for index in range(300)]
    for name in wanted:
        put(backend, absent(name))
    assert [slot.name for slot in names(backend.scan("many/", LONG))] == wanted


def test_a_scan_shows_a_node_that_is_no_locks_as_refused(backend: Zookeeper, tree: Tree) -> None:
    """It is named as it is, and the rest is shown."""
    slot = put(backend, absent("m"))
    tree.client.create(f"{tree.parent}/%6d", b"", makepath=True)
    refused, shown = backend.scan("", LONG)
    assert isinstance(refused, RecordRefused) and refused.name == "%6d" and shown == slot


def test_a_removal_spares_what_somebody_has_put_below(backend: Zookeeper, tree: Tree) -> None:
    """Children that are not ours make it a foreign record."""
    slot = put(backend, absent("job"))
    tree.client.create(f"{tree.path('job')}/notes", b"")
    with pytest.raises(RecordRefused, match="somebody else"):
        backend.remove(slot, LONG)
    assert backend.read("job", LONG) == slot


# Not known, and not done.


def test_what_was_never_sent_is_void(use: Callable[[str], Zookeeper]) -> None:
    """No server: reads fail, swaps surely were not done, and both in time."""
    backend, began = use("zookeeper://127.0.0.1:1/x"), time.monotonic()
    outcome = backend.swap(absent("job"), a_claim(backend, absent("job")), 0.3)
    assert isinstance(outcome, Unknown) and outcome.void
    with pytest.raises(StoreUnavailable, match="Connection refused"):
        backend.read("job", 0.3)
    assert time.monotonic() - began < LONG


def _read_after_a_cut(backend: Zookeeper) -> Slot:
    """What stands there; the first to ask may be who finds out that the connection has been cut."""
    with suppress(StoreUnavailable):
        backend.read("job", LONG)
    return backend.read("job", LONG)


def test_what_was_sent_and_not_answered_is_unknown(
    zookeeper: Shared, use: Callable[[str], Zookeeper], url: str
) -> None:
    """S19: it was done, and its answer lost; whoever reads finds it."""
    with _proxied(zookeeper) as proxy:
        backend, other = use(url.replace(urlsplit(url).netloc, proxy.at)), use(url)
        slot = put(backend, absent("job"))
        proxy.silence(Way.BACK)
        claim = a_claim(backend, slot)
        outcome = backend.swap(slot, claim, 0.3)
        assert isinstance(outcome, Unknown) and not outcome.void
        assert other.read("job", LONG).claim == claim
        proxy.cut()
        proxy.heal()
        assert _read_after_a_cut(backend).claim == claim


def test_a_lost_connection_makes_it_unknown_at_once(
    zookeeper: Shared, use: Callable[[str], Zookeeper], url: str
) -> None:
    """A reset after sending is not waited out, and not sent again."""
    with _proxied(zookeeper) as proxy:
        backend, other = use(url.replace(urlsplit(url).netloc, proxy.at)), use(url)
        slot = put(backend, absent("job"))
        proxy.silence(Way.BACK)
        outcomes: list[Any] = []
        swap = threading.Thread(
            target=lambda: outcomes.append(backend.swap(slot, a_claim(backend, slot), LONG))
        )
        began = time.monotonic()
        swap.start()
        until = began + LONG
        while other.read("job", LONG) == slot and time.monotonic() < until:
            time.sleep(0.01)
        proxy.cut()
        swap.join()
        assert time.monotonic() - began < LONG
        proxy.heal()
        assert isinstance(outcomes[0], Unknown) and not outcomes[0].void
        once = backend.read("job", LONG)
        assert once.version == (stamp(slot)[0], stamp(slot)[1] + 1)


def test_a_silent_connection_is_given_up(
    zookeeper: Shared, use: Callable[[str], Zookeeper], url: str
) -> None:
    """However often it is asked: the client does not take its own requests for signs of life."""
    with _proxied(zookeeper) as proxy:
        backend = use(url.replace(urlsplit(url).netloc, proxy.at))
        slot = put(backend, absent("job"))
        opened, until = proxy.count().connections, time.monotonic() + LONG
        proxy.silence(Way.BACK)
        while proxy.count().connections == opened:
            assert isinstance(backend.swap(slot, a_claim(backend, slot), 0.3), Unknown)
            assert time.monotonic() < until
        proxy.cut()
        proxy.heal()
        assert _read_after_a_cut(backend).held


def test_a_lock_held_over_a_connection_that_breaks_goes_on(zookeeper: Shared, url: str) -> None:
    """The renewals that were under way are chased, and the session carries nothing that could be lost."""
    with (
        _proxied(zookeeper) as proxy,
        connect_store(url.replace(urlsplit(url).netloc, proxy.at)) as store,
        store.lock("job", ttl=10.0) as lease,
    ):
        for cut in range(3):
            proxy.cut()
            lease.update({"cut": str(cut)})
            assert lease.held and store.status("job").metadata == {"cut": str(cut)}


def stamp(slot: Slot) -> tuple[int, int]:
    """Creation and version."""
    assert isinstance(slot.version, tuple)
    return slot.version


def _proxied(zookeeper: Shared) -> Proxy:
    parts = urlsplit(zookeeper.url)
    assert parts.port is not None
    return Proxy(port=parts.port, splitter=Requests)
