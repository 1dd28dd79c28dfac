"""The etcd store behind passwords and certificates: right ones work, wrong ones are told at once."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest

from leases import Lock
from leases.contract import Applied, Verdict, absent
from leases.errors import ConfigurationError, StoreDenied, StoreError
from leases.testing._probes import TIMEOUT, Hints, a_claim, applied, put
from leases_backends.etcd import Etcd, connect
from leases_command import LEASES
from mistakes import check_refused
from servers.certificates import Authority, Pair
from servers.etcd import EtcdServer, text
from servers.fixtures import launched

PASSWORDS = {"root": "r", "app": "geheim", "other": "o"}


@pytest.fixture(scope="module")
def server() -> Iterator[EtcdServer]:
    """With users, in the clear."""
    with launched("etcd", passwords=PASSWORDS) as started:
        yield started


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that nobody trusts."""
    return Authority(tmp_path_factory.mktemp("stranger"))


@pytest.fixture(scope="module")
def secure(authority: Authority) -> Iterator[EtcdServer]:
    """With certificates on both sides, whose names are the users."""
    users = {"root": "r", "app": "", "other": ""}
    with launched("etcd", tls=authority, client_certificates=True, passwords=users) as started:
        yield started


def use(url: str) -> None:
    """Acquire and release once, in a name of its own."""
    with closing(connect(url)) as backend:
        slot = put(backend, backend.read("access", TIMEOUT))
        applied(backend.swap(slot, None, TIMEOUT))


def refused(url: str) -> str:
    """What somebody is told who wants a lock there, and how soon."""
    began = time.monotonic()
    with pytest.raises(StoreDenied) as error, Lock("access", store=url, timeout=60):
        pass
    assert time.monotonic() - began < TIMEOUT
    assert "falsch" not in str(error.value)
    return str(error.value)


# Passwords.


def test_the_right_password_works(server: EtcdServer, tmp_path: Path) -> None:
    """In the URL, or in a file of one line; what the URL does not say is not to be seen."""
    use(server.url_of(user="app:geheim", path="app"))
    (tmp_path / "password").write_text("geheim\n")
    use(server.url_of(user="app", path="app", password_file=tmp_path / "password"))
    with closing(connect(server.url_of(user="app:geheim", path="app"))) as backend:
        assert "geheim" not in f"{backend.identity}{backend!r}{vars(backend)}{backend._client!r}"


def test_a_wrong_password_on_the_command_line(server: EtcdServer, tmp_path: Path) -> None:
    """Each command says it in a line."""
    check_refused(server.url_of(user="app:falsch", path="app"), tmp_path, secret="falsch")


def test_a_wrong_password_is_told_at_once(server: EtcdServer) -> None:
    """Whoever waits for a lock is not left waiting; no password is shown."""
    assert 'does not know user "app"' in refused(server.url_of(user="app:falsch", path="app"))
    assert 'does not know user "nobody"' in refused(server.url_of(user="nobody:falsch", path="app"))


def test_nobody_in_particular_is_asked_for_a_name(server: EtcdServer) -> None:
    """A URL without a user says what to add."""
    assert "name a user" in refused(server.url_of(path="app"))


def test_a_user_without_the_permission_is_told_the_command(server: EtcdServer) -> None:
    """The error ends in what grants it."""
    said = refused(server.url_of(user="other:o", path="app"))
    assert 'user "other"' in said and said.endswith("--prefix=true readwrite app/")


def test_permission_under_the_prefix_is_all_that_is_needed(server: EtcdServer) -> None:
    """Locks, scans, watches, values beside a lock and the examination need nothing else."""
    with closing(connect(server.url_of(user="app:geheim", path="app"))) as backend:
        slot, hints = put(backend, backend.read("job", TIMEOUT)), Hints()
        assert slot in list(backend.scan("", TIMEOUT))
        with closing(backend.watch(slot, hints)):
            hints.expect(slot := put(backend, slot))
        assert isinstance(backend.write_guarded(slot, "key", b"x", TIMEOUT), Applied)
        assert backend.read_guarded("job", "key", TIMEOUT) == b"x"
        verdicts = {finding.verdict for finding in backend.examine(TIMEOUT)}
        assert Verdict.BAD not in verdicts


def test_an_examination_names_the_permission_that_is_missing(server: EtcdServer) -> None:
    """Reading and writing, each with the command that grants it."""
    with closing(connect(server.url_of(user="other:o", path="app"))) as backend:
        bad = {one.subject: one.text for one in backend.examine(TIMEOUT) if one.verdict is Verdict.BAD}
    assert set(bad) == {"permission to read", "permission to write"}
    assert all("grant-permission" in text for text in bad.values())


def test_a_user_where_there_are_none_is_no_fault() -> None:
    """Whoever has a password before the store asks for it is ready for the day when it does."""
    with launched("etcd") as plain:
        plain.passwords = PASSWORDS
        with closing(connect(plain.url_of(user="app:geheim", path="app"))) as backend:
            slot = put(backend, absent("job"))
            plain.use_users()
            assert put(backend, slot).held


# Tokens.


def new_password(server: EtcdServer, user: str, password: str) -> None:
    """Which ends all tokens of the user."""
    token = server.root_token()
    server.ask("Auth/UserChangePassword", text(1, user), text(2, password), token=token)


def test_a_token_that_is_void_is_replaced_within_the_call(server: EtcdServer) -> None:
    """S27: the request was not executed, so it is sent with a new token, and nobody notices."""
    with closing(connect(server.url_of(user="app:geheim", path="app"))) as backend:
        slot = put(backend, backend.read("token", TIMEOUT))
        before = server.requests()["Authenticate"]
        new_password(server, "app", "geheim")
        slot = put(backend, slot)
        new_password(server, "app", "geheim")
        assert backend.read("token", TIMEOUT) == slot
        assert server.requests()["Authenticate"] == before + 4  # two of root's


def test_a_password_that_changes_in_its_file_is_read_anew(server: EtcdServer, tmp_path: Path) -> None:
    """Rotation needs no restart: the next token is fetched with what the file says then."""
    file = tmp_path / "password"
    file.write_text("geheim")
    with closing(connect(server.url_of(user="app", path="app", password_file=file))) as backend:
        slot = put(backend, backend.read("rotated", TIMEOUT))
        new_password(server, "app", "neu")
        try:
            with pytest.raises(StoreDenied):
                backend.swap(slot, a_claim(backend, slot), TIMEOUT)
            file.write_text("neu")
            assert put(backend, slot).held
        finally:
            new_password(server, "app", "geheim")


def test_a_watch_outlives_its_token(server: EtcdServer) -> None:
    """A name that is watched from now on needs a new token, and gets it."""
    with closing(connect(server.url_of(user="app:geheim", path="app"))) as backend:
        first, second = backend.read("watched/1", TIMEOUT), backend.read("watched/2", TIMEOUT)
        hints, others = Hints(), Hints()
        with closing(backend.watch(first, hints)):
            first = put(backend, first)
            hints.expect(first)
            new_password(server, "app", "geheim")
            with closing(backend.watch(second, others)):
                others.expect(put(backend, second))
                hints.expect(put(backend, first))


def test_a_lease_is_held_over_the_end_of_tokens() -> None:
    """Tokens that live for a second: the lease is renewed again and again, and its token stays."""
    with launched("etcd", passwords=PASSWORDS, flags={"auth-token-ttl": 1}) as server:
        url = server.url_of(user="app:geheim", path="app")
        with Lock("job", store=url, ttl=6, timeout=TIMEOUT) as lease:
            token, until = lease.token, time.monotonic() + 60
            while server.requests()["Authenticate"] < 3:
                assert lease.held and time.monotonic() < until
                time.sleep(0.1)
            assert lease.held and lease.token == token


# A command that runs under a lock.

# It takes another lock, and asks about its own.
NESTED: Final = (
    f"cd / && {shlex.join(LEASES)} hold -n inner -- true &&"
    f' {shlex.join(LEASES)} validate "$LEASES_NAME" --holder "$LEASES_HOLDER" --token "$LEASES_TOKEN"'
)
WAYS: Final = {
    "hold": ("hold", "job", "-c", NESTED),
    "shell": ("hold", "job", "--shell", "--", NESTED),
    "slots": ("hold", "job", "--slots", "2", "-c", NESTED),
    "elect": ("elect", "job", "--", "sh", "-c", NESTED),
}


def run(url: str, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `leases …` in a folder, where the environment names the store."""
    env = {**os.environ, "LEASES_URL": url}
    return subprocess.run([*LEASES, *words], capture_output=True, text=True, cwd=folder, env=env, timeout=60)


@pytest.mark.parametrize("way", WAYS)
def test_a_command_connects_as_the_same_user(server: EtcdServer, tmp_path: Path, way: str) -> None:
    """With the user's name and the password's file, from whatever folder it does so."""
    (tmp_path / "password").write_text("geheim\n")
    done = run(server.url_of(user="app", path="app", password_file="password"), tmp_path, *WAYS[way])
    assert (done.returncode, done.stderr) == (0, "")


def test_a_command_connects_with_the_same_certificate(
    secure: EtcdServer, authority: Authority, tmp_path: Path
) -> None:
    """The authority's certificate, the client's and its key are handed on with the URL."""
    pair = authority.client("app")
    files = {"ca": authority.ca, "cert": pair.cert, "key": pair.key}
    for name, file in files.items():
        (tmp_path / name).write_bytes(file.read_bytes())
    url = secure.url_of(path="app", server_name="etcd.test", **{name: name for name in files})
    done = run(url, tmp_path, *WAYS["hold"])
    assert (done.returncode, done.stderr) == (0, "")


def test_a_command_gets_no_password(server: EtcdServer, tmp_path: Path) -> None:
    """One that stood in the URL is left out, and who would connect is told what to do."""
    url = server.url_of(user="app:geheim", path="app")
    done = run(url, tmp_path, "hold", "job", "-c", 'echo "$LEASES_URL"')
    assert (done.returncode, done.stdout) == (0, url.replace(":geheim", "") + "\n")
    done = run(url, tmp_path, *WAYS["hold"])
    assert done.returncode == 64 and "geheim" not in done.stderr
    assert "a user without a password" in done.stderr and "password_file=FILE" in done.stderr


# Certificates.


def with_pair(server: EtcdServer, pair: Pair, **options: Any) -> str:
    return server.url_of(path="app", cert=pair.cert, key=pair.key, **options)


def test_a_certificate_names_the_user(secure: EtcdServer, authority: Authority) -> None:
    """No password is needed; another user's certificate lacks the permission."""
    use(with_pair(secure, authority.client("app")))
    use(with_pair(secure, authority.client("app"), server_name="etcd.test"))
    assert "does not let" in refused(with_pair(secure, authority.client("other")))


def test_wrong_certificates_are_told_at_once(
    secure: EtcdServer, authority: Authority, stranger: Authority
) -> None:
    """None, a stranger's, a server of a stranger's authority, and one of another name."""
    mine, theirs = authority.client("app"), stranger.client("app")
    assert "cert=" in refused(secure.url_of(path="app"))
    assert "cert=" in refused(with_pair(secure, theirs))
    assert "ca=" in refused(with_pair(secure, mine, ca=stranger.ca))
    assert "server_name=" in refused(with_pair(secure, mine, server_name="other.test"))


def test_files_that_do_not_fit_are_refused_before_anything_is_sent(authority: Authority) -> None:
    """A key of another certificate, and a file that is none."""
    one, two = authority.client("one"), authority.client("two")
    with pytest.raises(ConfigurationError, match="does not belong"):
        connect(f"etcds://h/app?cert={one.cert}&key={two.key}")
    with pytest.raises(ConfigurationError, match="holds no certificate"):
        connect(f"etcds://h/app?ca={one.key}")


def test_speaking_in_the_clear_to_tls_says_so(secure: EtcdServer) -> None:
    """It looks like a server that hangs up; the error names the likely cause."""
    at = secure.nodes[0].ports.at("client")
    with (
        closing(connect(f"etcd://{at}/app")) as backend,
        pytest.raises(StoreError, match="etcds: instead of"),
    ):
        backend.read("job", 3.0)


def test_renewed_certificates_are_taken_up(
    secure: EtcdServer, authority: Authority, stranger: Authority, tmp_path: Path
) -> None:
    """Once those in use are not accepted any more, the next connection is made with what the files hold."""
    cert, key = tmp_path / "cert", tmp_path / "key"

    def write(pair: Pair) -> None:
        cert.write_bytes(pair.cert.read_bytes())
        key.write_bytes(pair.key.read_bytes())

    write(stranger.client("app"))
    with closing(connect(secure.url_of(path="app", cert=cert, key=key))) as backend:
        with pytest.raises(StoreDenied):
            backend.read("job", TIMEOUT)
        write(authority.client("app"))
        _read_when_it_is_back(backend)


def _read_when_it_is_back(backend: Etcd) -> None:
    until = time.monotonic() + TIMEOUT
    while True:
        try:
            backend.read("job", 2.0)
            return
        except StoreError:
            assert time.monotonic() < until
            time.sleep(0.05)
