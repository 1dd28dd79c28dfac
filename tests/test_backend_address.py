"""The URL that a command gets of the store it runs under: what it needs to connect, and no secret."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leases.contract import Backend
from leases.errors import ConfigurationError
from leases.registry import OURS, open_backend
from leases_backends._url import TLS, Address, address
from servers.certificates import Authority

# The URL that is used in a folder, and the one that is given there; {here} is the folder.
# Where a password stood in the URL, the last column is what the command is told that connects without one.
GIVEN: Final = [
    ("memory:", "memory:", ""),
    ("memory:other?kind=etcd", "memory:other?kind=etcd", ""),
    ("sqlite:", "sqlite://{here}/state/leases/leases.db", ""),
    ("sqlite:run/../x.db", "sqlite://{here}/x.db", ""),
    ("sqlite:~/x.db", "sqlite://{here}/home/x.db", ""),
    ("sqlite:///var/lib/x%20y.db", "sqlite:///var/lib/x%20y.db", ""),
    ("sqlite:100%25%3F%23.db", "sqlite://{here}/100%25%3F%23.db", ""),
    ("etcd://H2,h1:9", "etcd://h1:9,h2:2379/leases", ""),
    ("etcd://ann@h/app?password_file=pass", "etcd://ann@h:2379/app?password_file={here}/pass", ""),
    (
        "etcd://a%40b@h/a%3Fb?password_file={here}/pass",
        "etcd://a%40b@h:2379/a%3Fb?password_file={here}/pass",
        "",
    ),
    ("etcd://ann:geheim@h/app", "etcd://ann@h:2379/app", "a user without a password"),
    (
        "etcds://h/app?ca=ca.pem&cert=cert.pem&key=key.pem&server_name=etcd.test",
        "etcds://h:2379/app?ca={here}/ca.pem&cert={here}/cert.pem&key={here}/key.pem&server_name=etcd.test",
        "",
    ),
    ("consul://h/app?dc=east&ns=team", "consul://h:8500/app?dc=east&ns=team", ""),
    ("consul://h/app?token_file=./pass", "consul://h:8500/app?token_file={here}/pass", ""),
    ("consul://:geheim@h/app", "consul://h:8500/app", ""),  # Who names no token is anonymous there.
    (
        "consuls://h?ca=ca.pem&token_file=pass&server_name=x",
        "consuls://h:8501/leases?ca={here}/ca.pem&token_file={here}/pass&server_name=x",
        "",
    ),
    ("zookeeper://h2,h1/app?acl=open", "zookeeper://h2:2181,h1:2181/app?acl=open", ""),
    (
        "zookeeper://ann@h/app?password_file=pass&sasl=digest-md5&acl=creator",
        "zookeeper://ann@h:2181/app?password_file={here}/pass&sasl=digest-md5&acl=creator",
        "",
    ),
    ("zookeeper://ann:geheim@h/app", "zookeeper://ann@h:2181/app", "the password is missing"),
    (
        "zookeepers://[::1]/app?ca=ca.pem&cert=cert.pem&key=key.pem&acl=creator",
        "zookeepers://[::1]:2181/app?ca={here}/ca.pem&cert={here}/cert.pem&key={here}/key.pem&acl=creator",
        "",
    ),
    (
        "kubernetes://?kubeconfig=config&context=x%3Ay&foreign_wait=3",
        "kubernetes://default?kubeconfig={here}/config&context=x:y&foreign_wait=3&server=http://k:1",
        "",
    ),
    (
        "kubernetes://ns?kubeconfig=~/config:none",
        "kubernetes://ns?kubeconfig={here}/home/config:{here}/none&server=http://k:1",
        "",
    ),
    ("kubernetes://ns", "kubernetes://ns?server=http://k:1", ""),
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with every file that the URLs name."""
    pair = Authority(tmp_path / "authority").client("ann")
    (tmp_path / "home").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "pass").write_text("geheim\n")
    for name, file in (("ca", tmp_path / "authority" / "ca.pem"), ("cert", pair.cert), ("key", pair.key)):
        (tmp_path / f"{name}.pem").write_bytes(file.read_bytes())
    one = {"name": "x:y", "context": {"cluster": "c", "user": "u"}}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "x:y",
        "contexts": [one],
        "clusters": [{"name": "c", "cluster": {"server": "http://k:1"}}],
        "users": [{"name": "u", "user": {}}],
    }
    for folder in (tmp_path, tmp_path / "home"):
        (folder / "config").write_text(json.dumps(config))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    for name in ("CONSUL_HTTP_TOKEN", "CONSUL_HTTP_TOKEN_FILE", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def opened() -> Iterator[Callable[[str], Backend]]:
    """Connects; nothing is sent, and all is closed at the end."""
    backends: list[Backend] = []

    def connect(url: str) -> Backend:
        backends.append(open_backend(url))
        return backends[-1]

    yield connect
    for backend in backends:
        backend.close()


@pytest.mark.parametrize(("used", "given", "lacks"), GIVEN, ids=[used for used, _, _ in GIVEN])
def test_what_a_command_is_given(
    here: Path,
    opened: Callable[[str], Backend],
    monkeypatch: pytest.MonkeyPatch,
    used: str,
    given: str,
    lacks: str,
) -> None:
    """From another folder it is the same store for the same user; what it lacks is a secret of the URL's."""
    backend = opened(used.format(here=here))
    assert backend.address == given.format(here=here)
    assert "geheim" not in backend.address
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    if lacks:
        with pytest.raises(ConfigurationError, match=rf"{lacks}.*; .*password_file="):
            open_backend(backend.address)
    else:
        again = opened(backend.address)
        assert again.address == backend.address
        if "kubeconfig" not in used:  # Its identity names the file in the words of the URL.
            assert again.identity == backend.identity


def test_every_scheme_is_in_the_table() -> None:
    """A store that is added gets its lines."""
    assert {used.partition(":")[0] for used, _, _ in GIVEN} == set(OURS)


def test_a_folder_that_is_gone_is_no_error(
    here: Path, opened: Callable[[str], Backend], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not there can be named relative to nothing, and is not looked for."""
    (here / "gone").mkdir()
    monkeypatch.chdir(here / "gone")
    (here / "gone").rmdir()
    used = f"kubernetes://ns?kubeconfig={here}/config:none"
    assert opened(used).address == f"{used}&server=http://k:1"
    monkeypatch.chdir(here)


def test_a_folder_that_is_no_utf_8(
    here: Path, opened: Callable[[str], Backend], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes of its name stay as they are."""
    folder = os.fsdecode(os.fsencode(here) + b"/\xff")
    os.mkdir(folder)
    Path(folder, "pass").write_text("geheim")
    monkeypatch.chdir(folder)
    for url in ("etcd://ann@h/app?password_file=pass", "sqlite:x%25.db"):
        backend = opened(url)
        assert f"{folder}/" in backend.address
        again = opened(backend.address)
        assert (again.address, again.identity) == (backend.address, backend.identity)


TEXT: Final = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8)


@given(TEXT | st.just(""), TEXT, TEXT | st.just(""), st.dictionaries(st.sampled_from(["dc", *TLS]), TEXT))
def test_what_is_handed_on_says_the_same(
    user: str, password: str, path: str, options: dict[str, str]
) -> None:
    """Whatever characters are in it, it is read again as it was, but for the password and relative paths."""
    where = Address("etcds", user, password, (("h", 1), ("::1", 2)), path.strip("/"), options)
    again = address(where.handed_on, port=9, known=("dc", *TLS))
    files = {name: os.path.abspath(value) for name, value in options.items() if name in ("ca", "cert", "key")}
    assert again == Address("etcds", user, "", where.hosts, where.path, options | files)
