"""Certificates that a URL names: what is read from them, and what is refused before anything is sent."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from leases import ConfigurationError
from leases_backends._tls import Tls
from leases_backends._url import TLS, address
from servers.certificates import Authority, Pair


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def client(authority: Authority) -> Pair:
    return authority.client("app")


def tls(**options: Path | str) -> Tls:
    query = "&".join(f"{name}={value}" for name, value in options.items())
    return Tls.of(address(f"etcds://h?{query}" if query else "etcds://h", port=1, known=TLS))


def test_nothing_named_trusts_the_system() -> None:
    """Without options the system's authorities are trusted, and names are verified."""
    context = tls().context()
    assert context.verify_mode is ssl.CERT_REQUIRED and context.check_hostname
    assert tls().pem() == (None, None, None)


def test_private_authority_alone_is_trusted(authority: Authority) -> None:
    """A named authority stands instead of the system's, and names are verified all the same."""
    made = tls(ca=authority.ca, server_name="store.test")
    assert made.server_name == "store.test" and len(made.context().get_ca_certs()) == 1
    assert made.context().verify_mode is ssl.CERT_REQUIRED and made.context().check_hostname
    assert made.pem() == (authority.ca.read_bytes(), None, None)


def test_client_certificate(authority: Authority, client: Pair) -> None:
    """Certificate and key may be two files, or one."""
    made = tls(ca=authority.ca, cert=client.cert, key=client.key)
    assert made.pem() == (authority.ca.read_bytes(), client.cert.read_bytes(), client.key.read_bytes())
    both = client.both.read_bytes()
    assert tls(cert=client.both).pem() == (None, both, both)


def test_handshake(authority: Authority, client: Pair) -> None:
    """The context shows the client's certificate and accepts the server's, for its name and no other."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pair = authority.server("store", "store.test")
    server.load_cert_chain(pair.cert, pair.key)
    server.load_verify_locations(authority.ca)
    server.verify_mode = ssl.CERT_REQUIRED
    context = tls(ca=authority.ca, cert=client.cert, key=client.key).context()
    shown = shake(context, server, "store.test").getpeercert()
    assert shown is not None and "app" in str(shown["subject"])
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake(context, server, "other.test")
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(tls().context(), server, "store.test")


def test_certificates_may_be_renewed(authority: Authority, tmp_path: Path) -> None:
    """What the files hold is read for every connection, not once."""
    (tmp_path / "ca.pem").write_bytes(authority.ca.read_bytes())
    made = tls(ca=tmp_path / "ca.pem")
    (tmp_path / "ca.pem").write_bytes(Authority(tmp_path / "new").ca.read_bytes())
    assert made.pem()[0] != authority.ca.read_bytes()
    (tmp_path / "ca.pem").unlink()
    with pytest.raises(ConfigurationError, match="cannot be read"):
        made.context()


def test_files_that_will_not_do(authority: Authority, client: Pair, tmp_path: Path) -> None:
    """Every file that is missing, empty, of another kind or of another pair is refused by its option."""
    no, empty = tmp_path / "no", tmp_path / "empty"
    empty.touch()
    other, locked = authority.client("other"), encrypted(client.key, tmp_path / "locked.key")
    refused: list[tuple[dict[str, Path], str]] = [
        ({"ca": no}, r"ca=\S+ cannot be read \(No such file or directory\); name a file"),
        ({"ca": tmp_path}, r"ca=\S+ cannot be read \(Is a directory\)"),
        ({"ca": empty}, r"ca=\S+ holds no certificate"),
        ({"ca": client.key}, r"ca=\S+ holds no certificate"),
        ({"cert": no}, r"cert=\S+ cannot be read"),
        ({"cert": empty}, r"cert=\S+ holds no certificate"),
        ({"cert": client.key}, r"cert=\S+ holds no certificate"),
        ({"cert": client.cert}, r"key=\S+ holds no key"),
        ({"cert": client.cert, "key": no}, r"key=\S+ cannot be read"),
        ({"cert": client.cert, "key": empty}, r"key=\S+ holds no key"),
        ({"cert": client.cert, "key": other.key}, r"key=\S+ does not belong to the certificate in cert=\S+"),
        ({"cert": client.cert, "key": locked}, r"key=\S+ is encrypted with a passphrase"),
        ({"key": client.key}, "key= is given without its certificate; name that in cert="),
    ]
    for options, what in refused:
        with pytest.raises(ConfigurationError, match=what):
            tls(**options)


def encrypted(key: Path, into: Path) -> Path:
    """The same key behind a passphrase."""
    into.write_bytes(
        serialization.load_pem_private_key(key.read_bytes(), None).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"passphrase"),
        )
    )
    return into


def shake(client: ssl.SSLContext, server: ssl.SSLContext, name: str) -> ssl.SSLObject:
    """A handshake without sockets: the server's side of it, when it is done."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server, server_hostname=name)
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    open_ends = [ours, theirs]
    for _ in range(10):
        for end in tuple(open_ends):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            open_ends.remove(end)
    assert not open_ends
    return theirs
