"""URLs of stores: what they say, what is refused, and that no error repeats a secret."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from leases import ConfigurationError, connect
from leases.registry import EXTRAS, OURS, open_backend, scheme_of
from leases.urls import shown
from leases_backends._url import TLS, Address, address
from leases_backends.memory import connect as memory

KNOWN = (*TLS, "password_file", "token_file", "dc")


def parsed(url: str, *, need_host: bool = True) -> Address:
    return address(url, port=2379, known=KNOWN, need_host=need_host)


def test_all_parts() -> None:
    """Every part is where it belongs, decoded."""
    assert parsed(
        "etcds://root:p%40ss%2F@h1,H2:99,[::1],[fe80::1]:7/a%20b/c/?ca=/x%3Fy&dc=%C3%A9"
    ) == Address(
        "etcds",
        "root",
        "p@ss/",
        (("h1", 2379), ("h2", 99), ("::1", 2379), ("fe80::1", 7)),
        "a b/c",
        {"ca": "/x?y", "dc": "é"},
    )


def test_fewest_parts() -> None:
    """A host is enough, and none where the store needs none."""
    assert parsed("ETCD://h") == Address("etcd", hosts=(("h", 2379),))
    for url in ("kubernetes:", "kubernetes://", "kubernetes:///"):
        assert parsed(url, need_host=False) == Address("kubernetes")


def test_what_names_the_store() -> None:
    """`shown` is the same for everybody, without user, credentials and certificates, and a URL again."""
    url = "consuls://u:s3cret@H2,[::1]:1/a%3Fb?dc=x%26y&ca=/c&password_file=/p"
    assert parsed(url).shown == "consuls://h2:2379,[::1]:1/a%3Fb?dc=x%26y"
    again = parsed(parsed(url).shown)
    assert (again.hosts, again.path, again.options) == (parsed(url).hosts, "a?b", {"dc": "x&y"})


def test_repr_has_no_secret() -> None:
    """A debugger's view of an address shows neither user nor password."""
    assert "s3cret" not in repr(parsed("etcd://token:s3cret@h")) and "token" not in repr(
        parsed("etcd://token@h")
    )


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("etcd:", "names no host; write etcd://host:2379"),
        ("etcd:///path", "names no host"),
        ("etcd:h1", '"//" is missing behind the scheme; write etcd://'),
        ("etcd://h1,", "a host in it is not one"),
        ("etcd://h 1", "a host in it is not one"),
        ("etcd://::1", "a host in it is not one"),
        ("etcd://[::1", "an IPv6 address in it is not one"),
        ("etcd://[::g]:1", "an IPv6 address in it is not one"),
        ("etcd://[::1]1", "an IPv6 address in it is not one"),
        ("etcd://h:0", "a port in it is not a number from 1 to 65535"),
        ("etcd://h:65536", "a port in it"),
        ("etcd://h:", "a port in it"),
        ("etcd://h:٣", "a port in it"),
        ("etcd://u:a@b@h", 'an "@" too many, or in its path; in user, password'),
        ("etcd://u:a/b@h", 'an "@" too many, or in its path'),
        ("etcd://u:a?b@h", 'an "@" behind a "?"'),
        ("etcd://u:a#b@h", 'a "#"; write "#" as %23'),
        ("etcd://u:a:b@h", 'more than one ":" before the "@"'),
        ("etcd://u:100%@h", '"%" in it does not begin a character in UTF-8; write "%" itself as %25'),
        ("etcd://h/%ff", '"%" in it does not begin a character'),
        ("etcd://h/%00", '"%" in it does not begin a character'),
        ("etcd://h?", 'ends in "?"'),
        (
            "etcd://h?tls_ca=/x",
            "the parameter 'tls_ca' is unknown; known here: ca, cert, dc, key, password_file",
        ),
        ("etcd://h?dc=a&dc=b", "the parameter 'dc' is given twice"),
        ("etcd://h?dc", "the parameter 'dc' has no value"),
        ("etcd://h?dc=", "the parameter 'dc' has no value"),
        ("etcd://h?Hello", "a parameter is unknown"),
        (
            "etcd://h?password=a",
            "write it into a file and name that in password_file=FILE or token_file=FILE",
        ),
        ("etcd://h?token=a", "a secret stands among its parameters"),
        ("etcd://h?client_secret=a", "a secret stands among its parameters"),
        ("etcd://h?ca=/x", '"etcd:" does not use TLS; write "etcds:"'),
    ],
)
def test_refused(url: str, what: str) -> None:
    """What cannot be read, or could be read in two ways, is refused with what to write instead."""
    with pytest.raises(ConfigurationError) as raised:
        parsed(url)
    assert what in str(raised.value)


def test_secret_with_nowhere_to_go() -> None:
    """A store that takes no secret says so."""
    with pytest.raises(ConfigurationError, match="takes none there, leave it out"):
        memory("memory:?password=x")


@pytest.mark.parametrize(
    "url", ["etcd://h1:2379,h2/app", "sqlite:///var/x.db", "sqlite:", "memory", "a b", "/p/q"]
)
def test_shown_whole(url: str) -> None:
    """A URL with nothing in it that could be a secret is shown as it is."""
    assert shown(url) == url


def test_shown_in_part() -> None:
    """Parameters are left out, long ones cut, and what could hold a secret is shown by its scheme."""
    assert shown("etcd://h1/app?dc=x") == "etcd://h1/app?…"
    assert shown("etcd://u:p@h") == "etcd://…" and shown("etcd:u:p") == "etcd:…" and shown("//u:p/q") == "…"
    assert len(shown("x" * 1000)) == 201


def test_secret_from_a_file(tmp_path: Path) -> None:
    """The file's one line is the secret, its end is not."""
    for body in (b"s 3cret\n", b"s 3cret\r\n", b"s 3cret"):
        (tmp_path / "secret").write_bytes(body)
        assert parsed(f"etcd://h?password_file={tmp_path}/secret").secret("password_file") == "s 3cret"


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"s3cret\nx", "more than one line"),
        (b"\xff", "is not text"),
        (b"s3cret" * 20_000, "over 65536 bytes"),
    ],
)
def test_file_that_holds_no_secret(tmp_path: Path, body: bytes, what: str) -> None:
    """A file that is no secret is refused by its name, and its content is not shown."""
    (tmp_path / "secret").write_bytes(body)
    with pytest.raises(ConfigurationError, match=what) as raised:
        parsed(f"etcd://h?password_file={tmp_path}/secret").secret("password_file")
    assert "s3cret" not in "".join(traceback.format_exception(raised.value))


def test_no_such_file(tmp_path: Path) -> None:
    """A file that cannot be read is refused by its name, with the reason."""
    with pytest.raises(ConfigurationError, match=r"no cannot be read \(No such file or directory\)"):
        parsed(f"etcd://h?token_file={tmp_path}/no").secret("token_file")


# Every piece of such a password is conspicuous, so that a part of it in a message is found, too.
PIECE = "Zq9xV"
passwords = st.lists(
    st.sampled_from([*"/@?#%:&=,;[] \\\"'é\n", "%2", "%ff", "//", "?a=b&"]), min_size=0, max_size=5
).map(lambda marks: PIECE + "".join(mark + PIECE for mark in marks))
shapes = st.sampled_from(
    [
        "{scheme}://user:{password}@host/path",
        "{scheme}://user:{password}@host:99999",
        "{scheme}://{password}@host?nothing=1",
        "{scheme}://user:{password}@",
        "{scheme}:user:{password}@host",
        "{scheme}:/user:{password}@host",
        "{scheme}://user:{password}@h1,[::1/?x=",
        "{scheme}://host?password={password}",
        "{scheme}://host?dc=1&token={password}&dc=2",
        "{scheme}://host?ca={password}&ca=2",
        "{scheme}://user:{password}@host?dc={password}",
        "{scheme}://host/path?nothing={password}@host",
        "user:{password}@host",
        "//user:{password}@host",
        "{scheme} ://user:{password}@host",
        "{scheme}//user:{password}@host",
    ]
)


@given(shapes, st.sampled_from([*sorted(OURS), "redis"]), passwords)
@example("{scheme}://user:{password}@host", "etcd", f"{PIECE}/{PIECE}")
@settings(max_examples=400, deadline=None)
def test_no_error_repeats_a_secret(shape: str, scheme: str, password: str) -> None:
    """Wherever a password stands in a URL that is refused, no piece of it is in the error."""
    url = shape.format(scheme=scheme, password=password)
    for use in (parsed, scheme_of, shown):
        assert_not_told(lambda: use(url))  # noqa: B023
    if scheme in ("memory", "sqlite", "redis") or ":" not in url:
        assert_not_told(lambda: open_backend(url))
        assert_not_told(lambda: connect(url))


@given(
    st.sampled_from(sorted(EXTRAS)),
    passwords,
    st.sampled_from(
        [
            "{scheme}://user:{password}@host/path",
            "{scheme}://:{password}@host",
            "{scheme}://user:{password}@",
            "{scheme}://user:{password}@host?nothing=1",
            "{scheme}://host?password={password}",
        ]
    ),
    st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_no_store_tells_a_secret(scheme: str, password: str, shape: str, encoded: bool) -> None:
    """Right or wrong, encoded or not: neither errors nor what a store says of itself have it."""
    url = shape.format(scheme=scheme, password=quote(password, safe="") if encoded else password)

    def use() -> str:
        backend = open_backend(url)
        try:
            return backend.identity + backend.address + repr(backend)
        finally:
            backend.close()

    assert_not_told(use)


def assert_not_told(use: Callable[[], object]) -> None:
    """What comes of it, or the error in full, has no piece of the password."""
    try:
        told = use()
    except ConfigurationError as error:
        hidden = error.__context__ is None or error.__suppress_context__
        told = repr(error) + "".join(traceback.format_exception_only(error)) + ("" if hidden else PIECE)
    if isinstance(told, str):
        assert PIECE not in told


@pytest.mark.parametrize(
    "url",
    [
        "memory:x?ca=",
        "memory:?kind=",
        "sqlite:x?ca=",
        "sqlite://u:",
        "sqlite://u:p@h/?x=",
        "sqlite:u:/",
        "sqlite://h@",
    ],
)
def test_own_errors_of_embedded_stores_repeat_no_secret(url: str) -> None:
    """The stores without credentials do not show what was meant for another, either."""
    with pytest.raises(ConfigurationError) as raised:
        open_backend(f"{url}{PIECE}/")
    assert PIECE not in str(raised.value)
