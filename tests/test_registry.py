"""From a URL to a backend: which URL is used, who provides its scheme, and what is said when nobody does."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import leases
from leases import ConfigurationError, connect, registry
from leases_backends.memory import Memory

ROOT = Path(__file__).resolve().parents[1]


# ---- which URL -----------------------------------------------------------------------------------


def test_given_url_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL that is given is used whatever the environment says."""
    monkeypatch.setenv("LEASES_URL", "memory:environment")
    assert registry.store_url("memory:given") == "memory:given"


def test_environment_names_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a URL, `LEASES_URL` is what `connect` and the registry use."""
    monkeypatch.setenv("LEASES_URL", "memory:environment")
    assert registry.store_url() == "memory:environment"
    with connect() as store:
        assert repr(store) == "<Store memory:environment>"


@pytest.mark.parametrize("value", [None, ""])
def test_embedded_store_is_the_default(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    """Where `LEASES_URL` is not set, or is empty, the embedded store is used."""
    monkeypatch.delenv("LEASES_URL", raising=False)
    if value is not None:
        monkeypatch.setenv("LEASES_URL", value)
    assert registry.store_url() == "sqlite:"


# ---- what is refused -----------------------------------------------------------------------------


def test_unknown_scheme_lists_the_known_ones() -> None:
    """A scheme that nobody provides is refused, and the message lists every scheme that can be used."""
    with pytest.raises(ConfigurationError, match='no backend for "nosuch:"') as raised:
        connect("nosuch://host/path")
    known = str(raised.value).rpartition(": ")[2].split(", ")
    assert known == sorted(registry.schemes()) and {"memory", "sqlite"} <= set(known)


@pytest.mark.parametrize("url", ["", "leases.db", "/var/lib/leases.db", "://host", "1memory:x"])
def test_what_is_no_url_is_refused(url: str) -> None:
    """Text without a scheme is refused, and the message says how a URL begins."""
    with pytest.raises(
        ConfigurationError, match=r"is not a store URL; begin it with one of: .*memory, "
    ) as raised:
        connect(url)
    assert f'"{url}"' in str(raised.value)


def test_what_is_no_text_is_refused() -> None:
    """A thing that is neither text nor a connected store is refused by its type."""
    with pytest.raises(ConfigurationError, match="not int"):
        registry.scheme_of(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_scheme_is_read_in_any_case() -> None:
    """The case of a scheme does not matter."""
    assert registry.scheme_of("MEMORY:x") == "memory"


@pytest.mark.parametrize(
    "url",
    [
        "//user:hunter2@host/path",
        "nosuch://user:hunter2@host/path",
        "//host/path?password=hunter2",
        "nosuch://host?token=hunter2",
    ],
)
def test_errors_show_no_secrets(url: str) -> None:
    """A password or a parameter of a URL that is refused does not reach the message."""
    with pytest.raises(ConfigurationError) as raised:
        connect(url)
    assert "hunter2" not in str(raised.value)


# ---- our own schemes -----------------------------------------------------------------------------


def test_our_schemes_are_our_entry_points() -> None:
    """What is looked up without metadata is what the distribution declares."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"][registry.GROUP] == registry.OURS


def test_extras_are_declared() -> None:
    """Whatever the message says to install is an extra of the distribution."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(registry.EXTRAS.values()) <= set(project["optional-dependencies"])
    assert set(registry.EXTRAS) <= set(registry.OURS)


@pytest.mark.parametrize("scheme", sorted(registry.OURS))
def test_each_of_our_schemes_opens(scheme: str, tmp_path: Path) -> None:
    """Every scheme of ours leads to a backend."""
    url = {"sqlite": f"sqlite://{tmp_path}/leases.db"}.get(scheme, f"{scheme}:")
    backend = registry.open_backend(url)
    assert backend.identity.startswith(f"{scheme}:")
    backend.close()


def _wanting(monkeypatch: pytest.MonkeyPatch, folder: Path, library: str) -> None:
    """A scheme of ours whose module imports a library that is not installed."""
    (folder / "wanting_backend.py").write_text(f"import {library}\n\ndef connect(url): ...\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setitem(registry.OURS, "wanting", "wanting_backend:connect")
    monkeypatch.setitem(registry.EXTRAS, "wanting", "wanted")


def test_missing_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A backend whose library is missing names the library, and the extra that brings it."""
    _wanting(monkeypatch, tmp_path, "library_that_is_missing")
    with pytest.raises(ConfigurationError, match="library_that_is_missing") as raised:
        connect("wanting://host")
    assert str(raised.value).endswith('pip install "leases[wanted]"')


def test_missing_part_of_ours_is_not_blamed_on_an_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """If a module of our own cannot be found, no extra would help, and the error is left as it is."""
    _wanting(monkeypatch, tmp_path, "leases_backends.missing")
    with pytest.raises(ModuleNotFoundError, match=r"leases_backends\.missing"):
        connect("wanting://host")


# ---- those of others -----------------------------------------------------------------------------

_THEIRS = """\
from leases_backends import memory

def connect(url):
    assert url == "theirs://host/path?x=1", url
    return memory.connect("memory:theirs")
"""

_USE = """\
import leases, leases.registry
with leases.connect("theirs://host/path?x=1") as store, leases.Lock("job", store=store) as lease:
    print(lease.held, store, "theirs" in leases.registry.schemes())
"""


def _install(folder: Path, points: str) -> None:
    info = folder / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[leases.backends]\n{points}\n")
    (folder / "their_backend.py").write_text(_THEIRS)


def _run(folder: Path, script: str) -> str:
    path = os.pathsep.join([str(folder), str(ROOT), str(ROOT / "backends")])
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_backend_of_others_comes_by_entry_point(tmp_path: Path) -> None:
    """An installed distribution provides a scheme by an entry point, and is given the whole URL."""
    _install(tmp_path, "theirs = their_backend:connect")
    assert _run(tmp_path, _USE) == "True <Store memory:theirs> True"


def test_scheme_of_ours_is_not_taken_by_others(tmp_path: Path) -> None:
    """An entry point under a name of ours changes nothing: what was `memory:` stays so."""
    _install(tmp_path, "memory = their_backend:connect")
    script = 'import leases, leases.registry as r; print(leases.connect("memory:x"), r.schemes()["memory"])'
    assert _run(tmp_path, script) == f"<Store memory:x> {registry.OURS['memory']}"


def test_our_schemes_open_without_metadata() -> None:
    """The metadata of installed distributions is not read for a scheme of ours."""
    script = (
        'import sys; before = "importlib.metadata" in sys.modules; import leases; leases.connect("memory:"); '
        'print(before or "importlib.metadata" not in sys.modules)'
    )
    assert _run(Path(leases.__file__).parent.parent, script) == "True"


def test_open_backend_gives_the_backend() -> None:
    """A URL leads to a backend of its own each time; sharing is the matter of `connect`."""
    one, two = registry.open_backend("memory:opened"), registry.open_backend("memory:opened")
    assert isinstance(one, Memory) and one is not two
    one.close()
    two.close()
