"""What is special about Consul: its keys, its answers, its blocking queries, and one connection for many."""

from __future__ import annotations

import os
import re
import secrets
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leases.contract import Applied, Conflict, Slot, Verdict, absent
from leases.errors import ConfigurationError, RecordRefused
from leases.testing._probes import TIMEOUT, Hints, a_claim, applied, in_child, put
from leases_backends import consul as backends
from leases_backends._consul_http import MOST, Wire
from leases_backends._consul_kv import read_back, spelt
from servers.consul import ConsulServer
from servers.fixtures import launched

# What one release of Consul takes in a key (1.21.5, by default); it knows the fewest characters of all.
STRICTEST = re.compile(r"[a-zA-Z0-9,_./\-?&=]+")


@pytest.fixture(scope="module")
def server() -> Iterator[ConsulServer]:
    """One that is a process of ours, so that it can be looked at past the backend."""
    with launched("consul") as started:
        yield started


@pytest.fixture
def name() -> str:
    return f"test-{secrets.token_hex(6)}"


@pytest.fixture
def backend(server: ConsulServer) -> Iterator[backends.Consul]:
    with closing(backends.connect(server.url)) as backend:
        yield backend


# Keys.


@given(st.text(st.characters(codec="utf-8"), min_size=1))
def test_a_key_spells_its_name_in_characters_that_every_release_takes(name: str) -> None:
    """And it can be read back; nothing in it is mended by Consul, as "//" and "/../" would be."""
    key = f"leases/{spelt(name)}"
    assert read_back(spelt(name)) == name
    assert STRICTEST.fullmatch(key) and ".." not in key and "//" not in key and "/." not in key


@given(st.text(st.sampled_from("a./=é%"), max_size=6), st.text(st.sampled_from("a./=é%"), max_size=6))
def test_a_prefix_of_a_name_is_spelt_as_a_prefix_of_its_key(prefix: str, rest: str) -> None:
    """So a scan asks for what it wants, and for nothing else of any size."""
    assert spelt(prefix + rest).startswith(spelt(prefix))


@pytest.mark.parametrize("spelling", ["a b", "=2e", "=41", "é", "=FF", "=", "a//b", "..", "a/.b", "%41"])
def test_a_key_that_no_name_has_is_read_as_none(spelling: str) -> None:
    """What is spelt in another way was written by somebody else."""
    assert read_back(spelling) is None


def test_plain_names_are_seen_as_folders_and_keys(
    server: ConsulServer, backend: backends.Consul, name: str
) -> None:
    """Consul's own tools and pages show what is there under the name that it has here."""
    slot = put(backend, absent(f"orders/{name}.1"))
    (entry,) = server.request("GET", f"kv/leases-test/orders/{name}.1")
    assert (entry["ModifyIndex"], entry["Flags"], "Session" in entry) == (slot.version, 0, False)


def test_a_stranger_s_key_under_the_folder_is_shown_as_refused(
    server: ConsulServer, backend: backends.Consul, name: str
) -> None:
    """A scan goes on past it; the folder itself, if it was made by hand, is nothing."""
    server.put("leases-test/", b"")
    server.put(f"leases-test/{name}/%2541", b"hello")
    (error,) = backend.scan(name, TIMEOUT)
    assert isinstance(error, RecordRefused) and error.name == f"{name}/%41"
    assert all(shown.name for shown in backend.scan("", TIMEOUT) if isinstance(shown, Slot))


# Writes.


def test_a_release_knows_its_own_index(backend: backends.Consul, name: str) -> None:
    """It is that of the deletion: the next read of the empty place is as new, and no newer."""
    free = applied(backend.swap(put(backend, absent(name)), None, TIMEOUT))
    assert backend.read(name, TIMEOUT) == free


def test_tokens_are_the_indexes_of_acquiring_writes(
    server: ConsulServer, backend: backends.Consul, name: str
) -> None:
    """A takeover creates nothing, and its token is new all the same (S57)."""
    first = put(backend, absent(name))
    second = put(backend, first)
    (entry,) = server.request("GET", f"kv/leases-test/{name}")
    assert entry["CreateIndex"] == first.token
    assert entry["ModifyIndex"] == second.token == second.version


def test_the_same_bytes_again_make_no_new_version(
    server: ConsulServer, backend: backends.Consul, name: str
) -> None:
    """Which is why every send carries another beat (S36): this is the store's rule, seen to be so."""
    slot = put(backend, absent(name))
    server.put(f"leases-test/{name}", slot.body)
    assert backend.read(name, TIMEOUT) == slot


def test_a_key_that_a_session_has_locked_is_refused(
    server: ConsulServer, backend: backends.Consul, name: str
) -> None:
    """Consul's own locks and ours do not share a key, not even when its value is a record of ours (S48)."""
    slot = put(backend, absent(name))
    session = server.request("PUT", "session/create", {"TTL": "60s"})["ID"]
    assert server.request("PUT", f"kv/leases-test/{name}?acquire={session}", slot.body) is True
    for attempt in (
        lambda: backend.read(name, TIMEOUT),
        lambda: backend.swap(slot, a_claim(backend, slot), TIMEOUT),
        lambda: backend.swap(slot, None, TIMEOUT),
    ):
        with pytest.raises(RecordRefused, match="session"):
            attempt()
    server.request("PUT", f"session/destroy/{session}")


def test_a_conflict_tells_what_stands_there(backend: backends.Consul, name: str) -> None:
    """Consul does not say why a transaction failed; whoever lost wants to know whom to wait for."""
    slot = put(backend, absent(name))
    assert backend.swap(absent(name), a_claim(backend, slot), TIMEOUT) == Conflict(slot)


def test_a_restore_brings_records_back_with_their_old_versions(server: ConsulServer, name: str) -> None:
    """Which is why it is done with all clients stopped; what is written afterwards is numbered on."""
    at = server.nodes[0].ports.at("client")
    with closing(backends.connect(server.url)) as backend:
        first = put(backend, absent(name))
        with urllib.request.urlopen(f"http://{at}/v1/snapshot", timeout=TIMEOUT) as answer:
            snapshot = answer.read()
        second = put(backend, first)
        request = urllib.request.Request(f"http://{at}/v1/snapshot", snapshot, method="PUT")
        urllib.request.urlopen(request, timeout=TIMEOUT).close()
        assert backend.read(name, TIMEOUT) == first
        assert isinstance(backend.swap(second, None, TIMEOUT), Conflict)
        assert (put(backend, first).token or 0) > (second.token or 0)


# Watching.


def test_connections_do_not_grow_with_names(server: ConsulServer, name: str) -> None:
    """Of a hundred names four have a question of their own, and the rest share one; each hears its own."""
    with closing(backends.connect(server.url)) as backend:
        slots = [backend.read(f"{name}/{index}", TIMEOUT) for index in range(100)]
        hints = [Hints() for _ in slots]
        watches = [backend.watch(slot, hint) for slot, hint in zip(slots, hints, strict=True)]
        wire = backend._agent.wire
        for index in range(0, 100, 7):
            wanted = put(backend, slots[index])
            until_told(hints[index], wanted)
        assert sum(line.patient for line in wire._lines) <= 5
        for watch in watches:
            watch.close()


def test_many_threads_share_few_connections(server: ConsulServer, name: str) -> None:
    """More calls at a time than there are connections wait for one another."""
    with closing(backends.connect(server.url)) as backend:
        done: list[Slot] = []
        threads = [
            threading.Thread(target=lambda index=index: done.append(put(backend, absent(f"{name}/{index}"))))
            for index in range(3 * MOST)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(done) == 3 * MOST and len(backend._agent.wire._lines) <= 12


def test_names_in_several_folders_are_watched_together(server: ConsulServer, name: str) -> None:
    """The shared question is for the folder that holds them all."""
    with closing(backends.connect(server.url)) as backend:
        every = [f"{name}/{folder}/{index}" for folder in ("a", "b/c", "b/d") for index in range(4)]
        slots = [backend.read(one, TIMEOUT) for one in every]
        hints = [Hints() for _ in slots]
        watches = [backend.watch(slot, hint) for slot, hint in zip(slots, hints, strict=True)]
        for slot, hint in reversed(list(zip(slots, hints, strict=True))):
            until_told(hint, put(backend, slot))
        for watch in watches:
            watch.close()


def test_a_question_outlives_its_listener_and_serves_the_next(server: ConsulServer, name: str) -> None:
    """Who waits for a lock often comes again: no second question is asked, and nothing is missed."""
    with closing(backends.connect(server.url)) as backend:
        slot, wire = put(backend, absent(name)), backend._agent.wire
        with closing(backend.watch(slot, Hints())):
            eventually(lambda: any(line.patient for line in wire._lines))
        questions = {line for line in wire._lines if line.patient}
        hints = Hints()
        with closing(backend.watch(slot, hints)):
            until_told(hints, put(backend, slot))
        assert {line for line in wire._lines if line.patient} <= questions


def test_who_joins_a_question_late_is_told_what_it_missed(server: ConsulServer, name: str) -> None:
    """The question is held for what comes next; what came before is known from its last answer."""
    with closing(backends.connect(server.url)) as backend:
        slot, early, late = put(backend, absent(name)), Hints(), Hints()
        with closing(backend.watch(slot, early)):
            renewed = put(backend, slot)
            until_told(early, renewed)
            with closing(backend.watch(slot, late)):
                assert late.get(timeout=TIMEOUT) == renewed


def test_others_writes_do_not_keep_a_question_busy(server: ConsulServer, name: str) -> None:
    """Consul answers at once when anything was written since; the pauses between such answers grow."""
    with closing(backends.connect(server.url)) as backend:
        hints = Hints()
        with closing(backend.watch(backend.read(name, TIMEOUT), hints)):
            until = time.monotonic() + 0.5
            while time.monotonic() < until:
                server.put(f"elsewhere/{name}", secrets.token_bytes(8))
            assert hints.empty()
            until_told(hints, put(backend, absent(name)))


# One process.


def test_users_of_one_url_share_connections(server: ConsulServer) -> None:
    """Not so those who have another token."""
    one, two = backends.connect(server.url), backends.connect(server.url)
    three = backends.connect(server.url_of(*server.nodes, token="another"))
    assert one._agent is two._agent is not three._agent
    assert one.identity == two.identity == three.identity
    for backend in (one, two, three):
        backend.close()


def test_nothing_is_left_when_the_last_user_has_closed(server: ConsulServer, name: str) -> None:
    """No thread, no connection; a user who stays keeps both."""
    one, two = backends.connect(server.url), backends.connect(server.url)
    slot = put(one, absent(name))
    hints = Hints()
    two.watch(slot, hints)
    one.close()
    until_told(hints, put(two, slot))
    wire = two._agent.wire
    two.close()
    assert not wire._lines
    assert not [thread for thread in threading.enumerate() if thread.name == "leases-consul-watch"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_child_of_a_fork_has_none_of_the_connections(server: ConsulServer, name: str) -> None:
    """They are closed there without a word, and the parent goes on to use them."""
    with closing(backends.connect(server.url)) as backend:
        slot, wire = put(backend, absent(name)), backend._agent.wire
        with closing(backend.watch(slot, Hints())):
            eventually(lambda: len(descriptors(wire)) == 2)
            inherited = descriptors(wire)

            def in_the_child() -> None:
                assert not wire._lines
                for descriptor in inherited:
                    with pytest.raises(OSError, match="Bad file descriptor"):
                        os.fstat(descriptor)

            assert in_child(in_the_child) == 0
            put(backend, slot)
            assert descriptors(wire) == inherited


# Addresses.


def test_a_host_that_is_down_is_passed_over(server: ConsulServer, name: str) -> None:
    """A request goes to the next host of the URL only as long as nothing of it was sent."""
    url = server.url.replace("//", "//127.0.0.1:9,")
    with closing(backends.connect(url)) as backend:
        assert isinstance(backend.swap(absent(name), a_claim(backend, absent(name)), TIMEOUT), Applied)
        assert backend._agent.wire.first == 1


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("consul://", "names no host"),
        ("consul://me:secret@host", "no users"),
        ("consul://:sec%20ret@host", "characters that no token has"),
        ("consul://:s3cret@host?token_file=/nowhere/s3cret", "two tokens"),
        ("consul://host?token_file=/nowhere/at-all", "cannot be read"),
        ("consul://host?ca=/nowhere", "does not use TLS"),
        ("consuls://host?ca=/nowhere", "cannot be read"),
        ("consul://host?session=1", "is unknown"),
        ("consul://host?stale=1", "is unknown"),
    ],
)
def test_a_url_that_cannot_work_is_refused_at_once(url: str, complaint: str) -> None:
    """Nothing is sent, and no secret is repeated."""
    with pytest.raises(ConfigurationError, match=complaint) as refused:
        backends.connect(url)
    assert "s3cret" not in str(refused.value).replace("/nowhere/s3cret", "")


def test_the_token_is_found_where_consul_s_own_tools_look(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """A file before the variable, as there; what the URL says comes before both."""
    file = tmp_path / "token"
    file.write_text("from-file\n")
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", "from-variable")
    assert token_of("consul://h") == "from-variable"
    monkeypatch.setenv("CONSUL_HTTP_TOKEN_FILE", str(file))
    assert token_of("consul://h") == "from-file"
    assert token_of("consul://:from-url@h") == "from-url"
    file.write_text("rotated\n")
    assert token_of("consul://h") == "rotated"


def test_a_url_without_a_folder_means_leases() -> None:
    """Whether it is written or not, it is the same store."""
    with (
        closing(backends.connect("consul://h")) as one,
        closing(backends.connect("consul://h/leases")) as two,
    ):
        assert one.identity == two.identity == "consul://h:8500/leases"
    with closing(backends.connect("consuls://h")) as three:
        assert three.identity == "consuls://h:8501/leases"


# What an examination says.


def test_an_examination_finds_a_single_server_doubtful(backend: backends.Consul) -> None:
    """It works, until that one fails; and without ACLs everybody may write."""
    found = {finding.subject: finding for finding in backend.examine(TIMEOUT)}
    assert found["reach"].verdict is Verdict.GOOD and found["version"].verdict is Verdict.GOOD
    assert found["health"].verdict is Verdict.DOUBTFUL and "1 server" in found["health"].text
    assert found["token"].verdict is Verdict.DOUBTFUL and "ACLs are off" in found["token"].text
    assert found["permission to write"].verdict is Verdict.GOOD
    assert not backend.read("leases-examination", TIMEOUT).held


def test_an_examination_of_nobody_says_so() -> None:
    """One finding, and no error."""
    with closing(backends.connect("consul://127.0.0.1:9")) as backend:
        (finding,) = backend.examine(TIMEOUT)
        assert (finding.subject, finding.verdict) == ("reach", Verdict.BAD)


def until_told(hints: Hints, slot: Slot) -> None:
    """Wait for a hint that shows this slot itself; those that ask to read do not count."""
    until = time.monotonic() + TIMEOUT
    while hints.get(timeout=max(0.0, until - time.monotonic())) != slot:
        pass


def descriptors(wire: Wire) -> set[int]:
    """Of the connections that are open."""
    connections = [line._connection for line in tuple(wire._lines)]
    return {one.sock.fileno() for one in connections if one is not None and one.sock is not None}


def eventually(fact: Callable[[], bool]) -> None:
    """Wait until something is so."""
    until = time.monotonic() + TIMEOUT
    while not fact():
        assert time.monotonic() < until
        time.sleep(0.005)


def token_of(url: str) -> str:
    with closing(backends.connect(url)) as backend:
        return backend._agent.wire.token()
