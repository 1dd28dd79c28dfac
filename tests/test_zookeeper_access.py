"""Who may use records in ZooKeeper: passwords, SASL, certificates and ACLs, on a server that asks."""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import pytest

from leases import connect as connect_store
from leases.contract import Unknown, Verdict, absent
from leases.errors import ConfigurationError, StoreDenied, StoreUnavailable
from leases.testing._probes import a_claim, applied, conflicted, put
from leases_backends._zookeeper_handler import Handler
from leases_backends.zookeeper import Zookeeper, connect
from mistakes import check_refused
from servers.certificates import Authority, Pair
from servers.fixtures import launched
from zookeeper_tree import end_session, session_number, tree_of

LONG: Final = 30.0  # seconds in which a refusal must not take: it comes at once
SECRET: Final = "geheim:ni$"


@dataclass(frozen=True)
class Guarded:
    """A server that asks for certificates on one port, and takes passwords on both."""

    server: Any
    authority: Authority
    stranger: Authority
    pairs: dict[str, Pair] = field(default_factory=dict[str, Pair])  # issued once: subjects are random

    def _pair(self, who: str) -> Pair:
        if who not in self.pairs:
            self.pairs[who] = self.authority.client(who)
        return self.pairs[who]

    def plain(self, path: str, user: str = "", options: str = "") -> str:
        """A URL in the clear."""
        return str(self.server.url_of(*self.server.nodes, user=user, path=path)) + options

    def secure(self, path: str, options: str = "", *, ca: Path | None = None, who: str = "alice") -> str:
        """A URL over TLS with the certificate of a client."""
        pair = self._pair(who)
        named = f"?ca={ca or self.authority.ca}&cert={pair.cert}&key={pair.key}{options}"
        return str(self.server.url_of(*self.server.nodes, secure=True, path=path)) + named


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("authorities")
    ours, stranger = Authority(folder / "ours"), Authority(folder / "stranger")
    with launched("zookeeper", tls=ours, client_certificates=True, passwords={"bob": SECRET}) as server:
        yield Guarded(server, ours, stranger)


@pytest.fixture
def use() -> Iterator[Callable[[str], Zookeeper]]:
    """Connects, and closes at the end."""
    with ExitStack() as stack:
        yield lambda url: stack.enter_context(closing(connect(url)))


def user(name: str, password: str = SECRET) -> str:
    """As it stands in a URL."""
    return f"{name}:{quote(password, safe='')}"


# Certificates.


def test_a_certificate_opens_a_server_that_asks_for_one(guarded: Guarded, use: Callable[..., Any]) -> None:
    """Records are written and read over TLS, and a lock is held."""
    url = guarded.secure("tls")
    backend, other = use(url), use(guarded.secure("tls", "&acl=open"))
    slot = put(backend, absent("job"))
    assert other.read("job", LONG) == slot
    with connect_store(url) as store, store.lock("held") as lease:
        assert lease.held and store.status("held").holder == lease.holder


def test_many_answers_at_once_come_over_tls(guarded: Guarded, use: Callable[..., Any]) -> None:
    """What TLS has decrypted and nobody has read yet is not waited for: a scan of many records ends."""
    backend = use(guarded.secure("many"))
    for number in range(40):
        put(backend, absent(f"{number:02}"))
    assert [slot.name for slot in backend.scan("", LONG)] == [f"{number:02}" for number in range(40)]


def test_what_tls_has_decrypted_already_is_ready_to_be_read(tmp_path: Path) -> None:
    """The kernel has nothing more to say of a record of which a part was read."""
    authority = Authority(tmp_path)
    pair, ours = authority.server(), ssl.create_default_context(cafile=str(authority.ca))
    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    theirs.load_cert_chain(pair.cert, pair.key)
    left, right = socket.socketpair()

    def serve() -> None:
        with theirs.wrap_socket(right, server_side=True) as server:
            server.sendall(b"one two")
            server.recv(1)

    serving = threading.Thread(target=serve)
    serving.start()
    handler = Handler(None, 1, lambda: None)
    with ours.wrap_socket(left, server_hostname="localhost") as client:
        assert client.recv(4) == b"one "
        assert handler.select([client], [], [], LONG) == ([client], [], [])
        assert client.recv(3) == b"two"
        assert handler.select([client], [], [], 0.01) == ([], [], [])
        client.sendall(b".")
        serving.join()


@pytest.mark.parametrize("wrong", ["no certificate", "a stranger's", "an unknown authority", "another name"])
def test_tls_that_fails_is_refused_at_once(guarded: Guarded, use: Callable[..., Any], wrong: str) -> None:
    """By the server or by us, it says so, with what to check, and does not wait for the timeout."""
    strange = guarded.stranger.client("mallory")
    base = guarded.server.url_of(*guarded.server.nodes, secure=True, path="tls")
    url = {
        "no certificate": f"{base}?ca={guarded.authority.ca}",
        "a stranger's": f"{base}?ca={guarded.authority.ca}&cert={strange.cert}&key={strange.key}",
        "an unknown authority": guarded.secure("tls", ca=guarded.stranger.ca),
        "another name": guarded.secure("tls", "&server_name=elsewhere.test"),
    }[wrong]
    backend, began = use(url), time.monotonic()
    with pytest.raises(StoreDenied, match="check ca=, server_name=, cert= and key="):
        backend.read("job", LONG)
    assert time.monotonic() - began < LONG


def test_the_wrong_port_is_named_as_a_possible_cause(guarded: Guarded, use: Callable[..., Any]) -> None:
    """TLS where the server speaks without, and the other way round, ends in an error that says so."""
    node = guarded.server.nodes[0]
    for url, how in (
        (f"zookeepers://{node.ports.at('client')}?ca={guarded.authority.ca}", "with TLS"),
        (f"zookeeper://{node.ports.at('secure')}", "without TLS"),
    ):
        with pytest.raises(StoreUnavailable, match=f"takes clients {how}"):
            use(url).read("job", 0.7)


def test_certificates_are_read_again_for_every_connection(
    guarded: Guarded, use: Callable[..., Any], tmp_path: Path
) -> None:
    """Whoever renews them in place does not restart anything."""
    ca = tmp_path / "ca.pem"
    ca.write_bytes(guarded.stranger.ca.read_bytes())
    backend = use(guarded.secure("tls", ca=ca))
    with pytest.raises(StoreDenied):
        backend.read("job", LONG)
    ca.write_bytes(guarded.authority.ca.read_bytes())
    until = time.monotonic() + LONG
    while True:
        try:
            backend.read("job", LONG)
            break
        except StoreDenied:
            assert time.monotonic() < until
            time.sleep(0.05)


def test_the_bearers_of_one_certificate_may_keep_records_to_themselves(
    guarded: Guarded, use: Callable[..., Any]
) -> None:
    """With acl=creator the server knows a client by its certificate's subject."""
    slot = put(use(guarded.secure("subject", "&acl=creator")), absent("job"))
    assert use(guarded.secure("subject", "&acl=creator&server_name=localhost")).read("job", LONG) == slot
    with pytest.raises(StoreDenied, match="/subject/job"):
        use(guarded.secure("subject", who="eve")).read("job", LONG)


# Passwords.


def test_what_a_user_makes_is_the_users(guarded: Guarded, use: Callable[..., Any]) -> None:
    """With another password, as another user or as nobody, it is neither read nor written, nor waited for."""
    slot = put(use(guarded.plain("own", user("ann"))), absent("job"))
    assert use(guarded.plain("own", user("ann"), "?acl=creator")).read("job", LONG) == slot
    for who in (user("ann", "wrong"), user("eve"), ""):
        other, began = use(guarded.plain("own", who)), time.monotonic()
        with pytest.raises(StoreDenied, match=r"/own/job: .*check user and password"):
            other.read("job", LONG)
        for name in ("job", "another"):
            with pytest.raises(StoreDenied):
                other.swap(absent(name), a_claim(other, absent(name)), LONG)
        with pytest.raises(StoreDenied):
            other.swap(slot, None, LONG)
        with pytest.raises(StoreDenied):
            other.remove(slot, LONG)
        with pytest.raises(StoreDenied):
            list(other.scan("", LONG))
        assert time.monotonic() - began < LONG


def test_a_value_beside_a_lock_is_the_users_too(guarded: Guarded, use: Callable[..., Any]) -> None:
    """Others neither read nor write it, nor guard one of their own by a record that is not theirs."""
    mine = use(guarded.plain("kept", user("ann")))
    slot = put(mine, absent("job"))
    applied(mine.write_guarded(slot, "key", b"x", LONG))
    assert mine.read_guarded("job", "key", LONG) == b"x"
    for who in (user("eve"), ""):
        other = use(guarded.plain("kept", who))
        with pytest.raises(StoreDenied, match=r"/kept/%09job%09key: .*check user and password"):
            other.read_guarded("job", "key", LONG)
        for body in (b"y", None):
            with pytest.raises(StoreDenied):
                other.write_guarded(slot, "key", body, LONG)
    applied(mine.write_guarded(slot, "key", None, LONG))


def test_open_records_are_everybodys(guarded: Guarded, use: Callable[..., Any]) -> None:
    """acl=open: also what a user makes."""
    slot = put(use(guarded.plain("open", user("ann"), "?acl=open")), absent("job"))
    assert put(use(guarded.plain("open")), slot).held


def test_a_user_may_lack_single_permissions(guarded: Guarded, use: Callable[..., Any]) -> None:
    """The error names the node; an examination names what is missing."""
    from kazoo.security import make_acl

    with tree_of(guarded.plain("rights")) as tree:
        for path, rights in (("/rights", {"read": True}), ("/shut", {"create": True})):
            tree.client.create(path, b"", acl=[make_acl("world", "anyone", admin=True, **rights)])
    readable, shut = use(guarded.plain("rights")), use(guarded.plain("shut"))
    with pytest.raises(StoreDenied, match="/rights/job"):
        readable.swap(absent("job"), a_claim(readable, absent("job")), LONG)
    assert bad(readable) == {"permission to write": "may not create nodes under /rights"}
    with pytest.raises(StoreDenied, match="/shut: listing it"):  # Before 3.9 all else could be done.
        list(shut.scan("", LONG))
    assert set(bad(shut)) == {"permission to write", "permission to read"}


def test_a_parent_that_may_not_be_made_is_named(guarded: Guarded, use: Callable[..., Any]) -> None:
    """It is not our record that is refused, but the node above it."""
    from kazoo.security import make_acl

    with tree_of(guarded.plain("")) as tree:
        tree.client.create("/closed", b"", acl=[make_acl("world", "anyone", read=True, admin=True)])
    backend = use(guarded.plain("closed/deep"))
    with pytest.raises(StoreDenied, match="/closed/deep: creating it"):
        backend.swap(absent("job"), a_claim(backend, absent("job")), LONG)
    assert bad(backend) == {"permission to write": "may not create nodes under /closed"}


def test_sasl_opens_with_the_right_password(guarded: Guarded, use: Callable[..., Any]) -> None:
    """What bob makes is bob's, over connections of his own."""
    slot = put(use(guarded.plain("sasl", user("bob"), "?sasl=digest-md5")), absent("job"))
    again = use(guarded.plain("sasl", user("bob"), "?sasl=digest-md5&acl=creator"))
    assert again.read("job", LONG) == slot
    with pytest.raises(StoreDenied, match="/sasl/job"):
        use(guarded.plain("sasl")).read("job", LONG)


def test_wrong_passwords_on_the_command_line(
    guarded: Guarded, use: Callable[[str], Zookeeper], tmp_path: Path
) -> None:
    """Each command says it in a line, whether the connection is refused or the record."""
    check_refused(guarded.plain("sasl", user("bob", "falsch"), "?sasl=digest-md5"), tmp_path, secret="falsch")
    put(use(guarded.plain("digest", user("ann"), "?acl=creator")), absent("job"))
    check_refused(guarded.plain("digest", user("ann", "falsch")), tmp_path, secret="falsch")


def test_sasl_with_a_wrong_password_is_refused_at_once(guarded: Guarded, use: Callable[..., Any]) -> None:
    """Every call says so: reads and swaps, the first and the later ones."""
    backend, began = use(guarded.plain("sasl", user("bob", "wrong"), "?sasl=digest-md5")), time.monotonic()
    for _ in range(3):
        with pytest.raises(StoreDenied, match="check user and password"):
            backend.read("job", LONG)
        with pytest.raises(StoreDenied, match="check user and password"):
            backend.swap(absent("job"), a_claim(backend, absent("job")), LONG)
    assert time.monotonic() - began < LONG


@pytest.mark.parametrize("how", ["digest", "sasl"])
def test_a_session_that_ends_in_the_middle_of_a_hold_costs_nothing(
    guarded: Guarded, use: Callable[..., Any], how: str
) -> None:
    """The next one logs in again by itself; lease and waiters go on."""
    url = guarded.plain(f"ends-{how}", user("bob"), "?sasl=digest-md5" if how == "sasl" else "")
    backend, other = use(url), use(f"{url}{'&' if '?' in url else '?'}acl=creator")
    with connect_store(url) as store, store.lock("job", ttl=15.0) as lease:
        ended = end_session(backend)
        slot = backend.read("job", LONG)
        lease.update({"still": "here"})
        assert lease.held and other.read("job", LONG).claim.metadata == {"still": "here"}
        assert session_number(backend) != ended and slot.token == lease.token


# Secrets.


def test_no_password_is_ever_shown(
    guarded: Guarded, use: Callable[..., Any], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Not at the most talkative level of any logger, not in an error, an identity, a repr or a finding."""
    caplog.set_level(1)
    for name in ("kazoo", "kazoo.client", "kazoo.protocol.connection", "leases_backends.zookeeper"):
        logging.getLogger(name).setLevel(1)
    said: list[str] = []
    password = tmp_path / "password"
    password.write_text(f"{SECRET}\n")
    for url in (
        guarded.plain("own", user("ann", SECRET + "?")),
        guarded.plain("secret", user("bob"), "?sasl=digest-md5"),
        guarded.plain("secret", user("bob", SECRET + "!"), "?sasl=digest-md5"),
        guarded.plain("secret", "bob", f"?password_file={password}"),
        f"zookeeper://{user('ann')}@127.0.0.1:1/x",
    ):
        backend = use(url)
        for ask in (lambda at=backend: at.read("job", 0.5), lambda at=backend: list(at.scan("", 0.5))):
            try:
                said.append(repr(ask()))
            except (StoreDenied, StoreUnavailable) as error:
                said.append(f"{error!r} {error} {error.__cause__!r} {error.__context__!r}")
        said += [
            backend.identity,
            repr(backend),
            repr(backend._session.target),
            *map(repr, backend.examine(0.5)),
        ]
    shown = "\n".join([caplog.text, *said])
    assert SECRET not in shown and quote(SECRET, safe="") not in shown and "geheim" not in shown
    assert "127.0.0.1" in shown


def test_a_password_may_stand_in_a_file(guarded: Guarded, use: Callable[..., Any], tmp_path: Path) -> None:
    """password_file= is the same as the password in the URL."""
    file = tmp_path / "password"
    file.write_text(f"{SECRET}\n")
    slot = put(use(guarded.plain("file", user("ann"))), absent("job"))
    assert use(guarded.plain("file", "ann", f"?password_file={file}")).read("job", LONG) == slot


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("zookeeper://ann@h/x", "the password is missing"),
        ("zookeeper://:geheim@h/x", "the user is missing"),
        ("zookeeper://a%3Ab:geheim@h/x", 'no ":" in its name'),
        ("zookeeper://ann:geheim@h/x?password_file=/f", "leave one out"),
        ("zookeeper://ann:geheim@h/x?sasl=gssapi", "sasl= is digest-md5"),
        ("zookeeper://h/x?sasl=digest-md5", "needs a user and a password"),
        ("zookeeper://h/x?acl=everybody", "acl= is one of creator, open"),
        ("zookeeper://h/x?acl=creator", "needs an identity"),
        ("zookeeper://h/x?ca=/f", "does not use TLS"),
        ("zookeepers://h/x?ca=/nowhere", "cannot be read"),
        ("zookeeper://h/zookeeper/x", "its path cannot be a node"),
        ("zookeeper://h/a//b", "its path cannot be a node"),
        ("zookeeper://h/a/../b", "its path cannot be a node"),
        ("zookeeper://h/%F0%9F%A6%8A", "its path cannot be a node"),
        ("zookeeper://h/x?chroot=y", "'chroot' is unknown"),
        ("zookeeper:///x", "names no host"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_sent(url: str, why: str) -> None:
    """When it is connected, with what to do, and without the password."""
    with pytest.raises(ConfigurationError, match=why) as refused:
        connect(url)
    assert "geheim" not in str(refused.value)


def test_sasl_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """When it is connected, not when the first lock is wanted."""
    from kazoo.protocol import connection

    monkeypatch.setattr(connection, "PURESASL_AVAILABLE", False)
    with pytest.raises(ConfigurationError, match=r'pip install "leases\[zookeeper\]"'):
        connect("zookeeper://ann:geheim@h/x?sasl=digest-md5")


def bad(backend: Zookeeper) -> dict[str, str]:
    """What an examination finds to be in the way."""
    return {found.subject: found.text for found in backend.examine(LONG) if found.verdict is Verdict.BAD}


def test_an_examination_names_what_is_wrong(guarded: Guarded, use: Callable[..., Any]) -> None:
    """Right access: nothing bad, and nothing stays. Wrong password, other people's records: named."""
    mine = use(guarded.plain("looked/at", user("ann")))
    assert bad(mine) == {}
    with tree_of(guarded.plain("")) as tree:
        assert tree.client.exists("/looked") is None
    slot = put(mine, absent("job"))
    assert bad(mine) == {} and mine.read("job", LONG) == slot
    doubtful = [found.subject for found in mine.examine(LONG) if found.verdict is Verdict.DOUBTFUL]
    assert doubtful == ["encryption"]
    assert set(bad(use(guarded.plain("looked/at")))) == {"permission to write", "permission to read"}
    put(use(guarded.plain("mixed", "", "?acl=open")), absent("open"))
    put(use(guarded.plain("mixed", user("ann"))), absent("closed"))
    assert bad(use(guarded.plain("mixed")))["records"] == "1 of 2 cannot be read, closed among them"
    wrong = use(guarded.plain("looked/at", user("bob", "wrong"), "?sasl=digest-md5"))
    assert set(bad(wrong)) == {"reach"}
    nobody = use("zookeeper://127.0.0.1:1")
    assert set(bad_in(nobody, 0.3)) == {"reach"}
    assert isinstance(nobody.swap(absent("job"), a_claim(nobody, absent("job")), 0.1), Unknown)


def bad_in(backend: Zookeeper, seconds: float) -> list[str]:
    """The same, with little patience."""
    return [found.subject for found in backend.examine(seconds) if found.verdict is Verdict.BAD]


def test_another_version_under_an_acl_conflicts_like_any_other(
    guarded: Guarded, use: Callable[..., Any]
) -> None:
    """What is allowed and comes too late is a conflict, not a refusal."""
    backend = use(guarded.plain("late", user("ann")))
    first = put(backend, absent("job"))
    second = put(backend, first)
    conflicted(backend.swap(first, a_claim(backend, first), LONG), second)
    applied(backend.swap(second, None, LONG))
