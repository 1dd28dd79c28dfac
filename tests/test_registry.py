"""From a URL to a backend: our own schemes, those of others, and what is said where there is none."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from leases import ConfigurationError, registry

ROOT = Path(__file__).parents[1]
KNOWN = ", ".join(sorted(registry.OURS))


def test_table_is_that_of_the_project() -> None:
    """The schemes that are looked up first are exactly the entry points that the project declares."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"][registry.GROUP] == registry.OURS
    assert set(registry.EXTRAS) <= set(registry.OURS)
    assert set(registry.EXTRAS.values()) <= set(project.get("optional-dependencies", {}))


def test_installed_entry_points_are_ours() -> None:
    """What the installed package declares is what the table says."""
    installed = {point.name: point.value for point in entry_points(group=registry.GROUP)}
    assert registry.OURS.items() <= installed.items()


def test_url_is_the_one_given_or_the_environments_or_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """An argument comes before `$LEASES_URL`, which comes before the embedded store; empty is unset."""
    monkeypatch.delenv("LEASES_URL", raising=False)
    assert registry.store_url() == "sqlite:" and registry.store_url("memory:") == "memory:"
    monkeypatch.setenv("LEASES_URL", "memory:x")
    assert registry.store_url() == "memory:x" and registry.store_url("memory:") == "memory:"
    monkeypatch.setenv("LEASES_URL", "")
    assert registry.store_url() == "sqlite:"


@pytest.mark.parametrize(
    ("url", "scheme"),
    [
        ("memory:", "memory"),
        ("MEMORY:x", "memory"),
        ("sqlite:///a/b.db?x=1", "sqlite"),
        ("Sqlite:a", "sqlite"),
    ],
)
def test_scheme_is_the_part_before_the_colon(url: str, scheme: str) -> None:
    """In lower case, whatever follows."""
    assert registry.scheme_of(url) == scheme


@pytest.mark.parametrize("url", ["", "memory", "//host", "1a:", "/path/leases.db", "a b:"])
def test_no_url(url: str) -> None:
    """What is no URL is refused, with the schemes that it could begin with."""
    with pytest.raises(ConfigurationError) as raised:
        registry.scheme_of(url)
    assert str(raised.value) == f'"{url}" is not a store URL; begin it with one of: {KNOWN}'


def test_unknown_scheme() -> None:
    """An unknown scheme is named, with those that are known."""
    with pytest.raises(ConfigurationError) as raised:
        registry.open_backend("redis://localhost")
    assert str(raised.value) == f'no backend for "redis:"; the known schemes are: {KNOWN}'


@pytest.mark.parametrize("url", [None, 5, b"memory:"])
def test_not_even_text(url: object) -> None:
    """What is not text is refused by its type."""
    with pytest.raises(ConfigurationError, match="a store is a URL or a connected store, not"):
        registry.scheme_of(url)  # type: ignore[arg-type]


ANEW = 'install it anew with: pip install --upgrade --force-reinstall "leases[etcd]"'


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (
            "import library_that_is_not_there",
            'needs the package library_that_is_not_there; install it with: pip install "leases[etcd]"',
        ),
        (
            "raise ImportError('libx.so:\\n wrong ELF class')",
            f"needs a package that cannot be loaded: libx.so: wrong ELF class; {ANEW}",
        ),
        (
            "import json; json.later",
            f"needs a package that cannot be loaded: module 'json' has no attribute 'later'; {ANEW}",
        ),
    ],
    ids=["missing", "of another system", "too old"],
)
def test_library_that_does_not_serve(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str, told: str
) -> None:
    """Where the library of one of our schemes cannot be had, one line says what to install."""
    (tmp_path / "backend_of_ours.py").write_text(source + "\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(registry.OURS, "etcd", "backend_of_ours:connect")
    monkeypatch.setitem(registry.EXTRAS, "etcd", "etcd")
    with pytest.raises(ConfigurationError) as raised:
        registry.open_backend("etcd://h")
    assert str(raised.value) == f'"etcd:" {told}'
    assert raised.value.__cause__ is not None


def test_missing_module_of_our_own_is_no_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of ours that cannot be found is a fault of the installation, not something to install."""
    monkeypatch.setitem(registry.OURS, "etcd", "leases_backends.not_there:connect")
    monkeypatch.setitem(registry.EXTRAS, "etcd", "etcd")
    with pytest.raises(ModuleNotFoundError):
        registry.open_backend("etcd://h")


BACKEND = """
from leases_backends.memory import connect as memory

def connect(url):
    backend = memory("memory:third-party")
    backend.identity = url
    return backend
"""

PROGRAM = """
from leases import Lock, connect

with connect("shelf:somewhere") as store, store.lock("job") as lease:
    print(store, lease.held)
with Lock("job", store="SHELF:somewhere") as lease:
    print(lease.held)
try:
    connect("nothing:")
except ValueError as error:
    print(error)
"""


def third_party(folder: Path, backend: str | None) -> dict[str, str]:
    """An environment in which somebody else's distribution provides `shelf:`."""
    if backend is not None:
        (folder / "shelf_leases.py").write_text(backend)
    info = folder / "shelf_leases-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shelf-leases\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[leases.backends]\nshelf = shelf_leases:connect\n")
    return {**os.environ, "PYTHONPATH": os.pathsep.join((str(folder), str(ROOT), str(ROOT / "backends")))}


def run(code: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)


def test_backends_of_others_are_found(tmp_path: Path) -> None:
    """An installed distribution adds a scheme by an entry point, and by nothing else."""
    env = third_party(tmp_path, BACKEND)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "<Store shelf:somewhere> True",
        "True",
        f'no backend for "nothing:"; the known schemes are: {", ".join(sorted([*registry.OURS, "shelf"]))}',
    ]


@pytest.mark.parametrize(
    ("backend", "what"),
    [(None, "No module named 'shelf_leases'"), ("import nothing_at_all", "nothing_at_all"), ("", "connect")],
)
def test_backend_of_others_that_is_broken(tmp_path: Path, backend: str | None, what: str) -> None:
    """Where somebody else's backend cannot be loaded, the error says whose it is, and why."""
    env = third_party(tmp_path, backend)
    code = "from leases import connect\ntry: connect('shelf:')\nexcept ValueError as error: print(error)"
    done = run(code, env)
    assert done.stderr == ""
    assert '"shelf:" is provided by shelf_leases:connect, which cannot be loaded' in done.stdout
    assert what in done.stdout


def test_ours_come_first(tmp_path: Path) -> None:
    """A distribution may declare one of our schemes beside its own: its own is used, ours it does not get."""
    env = third_party(tmp_path, BACKEND)
    (tmp_path / "shelf_leases-1.0.dist-info" / "entry_points.txt").write_text(
        "[leases.backends]\nmemory = shelf_leases:refuse\nshelf = shelf_leases:connect\n"
    )
    (tmp_path / "shelf_leases.py").write_text(BACKEND + "\ndef refuse(url):\n    raise SystemExit('mine')\n")
    code = (
        "from leases import connect, registry\n"
        "print(registry.schemes()['memory'], connect('memory:'), connect('shelf:'))"
    )
    done = run(code, env)
    assert done.stderr == ""
    assert done.stdout == "leases_backends.memory:connect <Store memory:> <Store shelf:>\n"
