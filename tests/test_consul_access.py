"""Consul's tokens and certificates: the right ones work, wrong ones are told at once, and both may change."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from leases.contract import Verdict, absent
from leases.errors import StoreDenied, StoreUnavailable
from leases.lock import Lock
from leases.store import connect
from leases.testing._probes import TIMEOUT, Hints, a_claim, applied, put
from leases_backends import consul as backends
from mistakes import check_refused
from servers.certificates import Authority
from servers.consul import FOLDER, ConsulServer
from servers.fixtures import launched

LEAST = f'key_prefix "{FOLDER}/" {{ policy = "write" }}'
LOOK = f'key_prefix "{FOLDER}/" {{ policy = "read" }}'


@pytest.fixture(scope="module")
def guarded() -> Iterator[ConsulServer]:
    """Whoever has no token may do nothing."""
    with launched("consul", acl=True) as server:
        yield server


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def secure(authority: Authority) -> Iterator[ConsulServer]:
    """Whoever has no certificate may do nothing."""
    with launched("consul", tls=authority) as server:
        yield server


@pytest.fixture
def name() -> str:
    return f"test-{secrets.token_hex(6)}"


# Tokens.


def test_one_rule_is_enough_for_everything(guarded: ConsulServer, name: str) -> None:
    """To acquire, renew, wait, list, keep values and release; an examination finds nothing bad."""
    token = guarded.grant(LEAST)
    with closing(backends.connect(guarded.url_of(*guarded.nodes, token=token))) as backend:
        hints = Hints()
        slot = put(backend, absent(name))
        with closing(backend.watch(slot, hints)):
            slot = put(backend, slot)
            hints.expect(slot)
        assert list(backend.scan(name, TIMEOUT)) == [slot]
        applied(backend.write_guarded(slot, "key", b"x", TIMEOUT))
        assert backend.read_guarded(name, "key", TIMEOUT) == b"x"
        applied(backend.swap(slot, None, TIMEOUT))
        assert Verdict.BAD not in {finding.verdict for finding in backend.examine(TIMEOUT)}


def test_a_token_for_one_key_is_enough_for_that_lock(guarded: ConsulServer, name: str) -> None:
    """Hints too, as long as it waits for few names; values beside the lock are refused."""
    token = guarded.grant(f'key "{FOLDER}/{name}" {{ policy = "write" }}')
    with closing(backends.connect(guarded.url_of(*guarded.nodes, token=token))) as backend:
        hints = Hints()
        slot = put(backend, absent(name))
        with closing(backend.watch(slot, hints)):
            hints.expect(slot := put(backend, slot))
        for refused in (
            lambda: backend.write_guarded(slot, "key", b"x", TIMEOUT),
            lambda: backend.read_guarded(name, "key", TIMEOUT),
        ):
            with pytest.raises(StoreDenied, match="key_prefix"):
                refused()


def test_a_wrong_token_on_the_command_line(guarded: ConsulServer, tmp_path: Path) -> None:
    """Each command says it in a line."""
    token = "d0a4c9f2-0000-4000-8000-000000000000"
    check_refused(guarded.url_of(*guarded.nodes, token=token), tmp_path, secret=token)


def test_a_wrong_token_is_told_at_once(guarded: ConsulServer, name: str) -> None:
    """Also to those who would wait for ever; the error does not repeat it."""
    url = guarded.url_of(*guarded.nodes, token="n0-such-t0ken")
    with connect(url) as store, pytest.raises(StoreDenied, match="does not know the token") as refused:
        store.lock(name).acquire()
    assert "n0-such" not in f"{refused.value} {refused.value.__cause__} {store!r}"


@pytest.mark.parametrize("rules", [LOOK, 'key_prefix "elsewhere/" { policy = "write" }'])
def test_a_token_that_may_not_write_is_told_the_rule_it_lacks(
    guarded: ConsulServer, name: str, rules: str
) -> None:
    """By a lock, and by an examination."""
    url = guarded.url_of(*guarded.nodes, token=guarded.grant(rules))
    with connect(url) as store, pytest.raises(StoreDenied, match=re.escape(LEAST)) as refused:
        store.lock(name).acquire()
    assert f'key_prefix "{FOLDER}/"' in str(refused.value)
    with closing(backends.connect(url)) as backend:
        found = {finding.subject: finding for finding in backend.examine(TIMEOUT)}
        assert found["permission to write"].verdict is Verdict.BAD
        assert f'key_prefix "{FOLDER}/"' in found["permission to write"].advice


def test_a_token_to_look_is_enough_to_look(guarded: ConsulServer, name: str) -> None:
    """At one lock, at all, and at changes."""
    with closing(backends.connect(guarded.url)) as writer:
        slot = put(writer, absent(name))
        url = guarded.url_of(*guarded.nodes, token=guarded.grant(LOOK))
        with closing(backends.connect(url)) as backend:
            hints = Hints()
            assert backend.read(name, TIMEOUT) == slot
            assert list(backend.scan(name, TIMEOUT)) == [slot]
            with closing(backend.watch(slot, hints)):
                hints.expect(put(writer, slot))


def test_who_may_not_look_is_not_shown_an_empty_list(guarded: ConsulServer, name: str) -> None:
    """Consul leaves out what a token may not see; a list without it would be a lie."""
    with closing(backends.connect(guarded.url)) as writer:
        put(writer, absent(name))
    with (
        closing(backends.connect(guarded.url_of(*guarded.nodes, token=""))) as backend,
        pytest.raises(StoreDenied, match="give a token"),
    ):
        backend.scan(name, TIMEOUT)


def test_a_lease_outlives_its_token(guarded: ConsulServer, name: str, tmp_path: Path) -> None:
    """Deleted in the middle of a hold; the next one is in the file while the lease still stands (S27)."""
    file = tmp_path / "token"
    token = guarded.grant(LEAST)
    file.write_text(token)
    url = guarded.url_of(*guarded.nodes, token="") + f"?token_file={file}"
    with closing(backends.connect(guarded.url)) as observer, connect(url) as store:
        with store.lock(name, ttl=8.0) as lease:
            guarded.revoke(token)
            eventually(lambda: lease.jeopardy)
            before = observer.read(name, TIMEOUT)
            file.write_text(guarded.grant(LEAST) + "\n")
            eventually(lambda: observer.read(name, TIMEOUT).version != before.version)
            eventually(lambda: not lease.jeopardy)
            lease.check()
        assert not observer.read(name, TIMEOUT).held


def test_a_file_that_vanishes_takes_no_token_away(guarded: ConsulServer, name: str, tmp_path: Path) -> None:
    """It is being replaced: what it said last is tried until it says something else."""
    file = tmp_path / "token"
    file.write_text(guarded.grant(LEAST))
    url = guarded.url_of(*guarded.nodes, token="") + f"?token_file={file}"
    with closing(backends.connect(url)) as backend:
        slot = put(backend, absent(name))
        file.unlink()
        slot = put(backend, slot)
        file.write_text("")
        slot = put(backend, slot)
        file.write_text("n0-such-t0ken")
        with pytest.raises(StoreDenied):
            backend.swap(slot, a_claim(backend, slot), TIMEOUT)


# Certificates.


def test_both_sides_show_certificates(secure: ConsulServer, name: str) -> None:
    """A lock over TLS, with hints over TLS."""
    with closing(backends.connect(secure.url)) as backend:
        hints = Hints()
        slot = put(backend, absent(name))
        with closing(backend.watch(slot, hints)):
            hints.expect(put(backend, slot))
        assert ".pem" not in backend.identity


def test_a_lock_is_handed_over_by_tls(secure: ConsulServer, name: str) -> None:
    """From one process's connection to another's."""
    with Lock(name, store=secure.url, ttl=5.0) as lease:
        assert lease.token > 0


def test_wrong_certificates_are_told_at_once(
    secure: ConsulServer, authority: Authority, name: str, tmp_path: Path
) -> None:
    """None, another authority's, a server that is not trusted or has another name, and no TLS at all."""
    at, ca, mine = secure.nodes[0].ports.at("client"), authority.ca, authority.client("leases")
    other = Authority(tmp_path / "other")
    stranger, known = other.client("leases"), f"cert={mine.cert}&key={mine.key}"
    for url, complaint in (
        (f"consuls://{at}?ca={ca}", "cert= and key="),
        (f"consuls://{at}?ca={ca}&cert={stranger.cert}&key={stranger.key}", "cert= and key="),
        (f"consuls://{at}?{known}", "name its authority in ca="),
        (f"consuls://{at}?ca={other.ca}&{known}", "name its authority in ca="),
        (f"consuls://{at}?ca={ca}&{known}&server_name=else.where", "server_name="),
        (f"consul://{at}", "write consuls:"),
    ):
        with connect(url) as store, pytest.raises(StoreDenied, match=complaint):
            store.lock(name).acquire()


def test_tls_to_a_server_that_has_none_is_told_at_once(guarded: ConsulServer, name: str) -> None:
    """The scheme is wrong, and the error says which is right."""
    url = f"consuls://{guarded.nodes[0].ports.at('client')}"
    with connect(url) as store, pytest.raises(StoreDenied, match="write consul:"):
        store.lock(name).acquire()


def test_a_certificate_that_is_renewed_is_used_by_the_next_connection(
    secure: ConsulServer, authority: Authority, name: str, tmp_path: Path
) -> None:
    """The files are read anew; a connection that stands is not broken for it."""
    old = authority.client("short-lived")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_bytes(old.cert.read_bytes())
    key.write_bytes(old.key.read_bytes())
    url = f"consuls://{secure.nodes[0].ports.at('client')}/{FOLDER}?ca={authority.ca}&cert={cert}&key={key}"
    with closing(backends.connect(url)) as backend:
        slot = put(backend, absent(name))
        cert.write_bytes(b"")
        slot = put(backend, slot)
        backend._agent.wire.close()
        with pytest.raises(StoreUnavailable, match="cert="):
            backend.read(name, TIMEOUT)
        new = authority.client("renewed")
        cert.write_bytes(new.cert.read_bytes())
        key.write_bytes(new.key.read_bytes())
        put(backend, slot)


def eventually(fact: Callable[[], bool]) -> None:
    """Wait until something is so."""
    until = time.monotonic() + TIMEOUT
    while not fact():
        assert time.monotonic() < until
        time.sleep(0.02)
