"""The arrows point down: what may import what, and no file knows whose machine it was written on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from layers import LAYERS, ROOT, circle, faults, project

TEXT: Final = frozenset({"", ".cfg", ".ini", ".json", ".md", ".py", ".sh", ".toml", ".txt", ".yaml", ".yml"})
BUILT: Final = re.compile(r"\.git|\.venv.*|\..*_cache|\.hypothesis|__pycache__|build|dist|.*\.egg-info")
# A folder that belongs to one person or one machine, written out in full.
PERSONAL: Final = re.compile(r"(?<![\w$}~.:/-])/(?:root|home|Users|work)/\w")


def test_every_module_imports_only_from_below() -> None:
    """No module of the project breaks a rule of layers.py, and none is missing from its table."""
    assert faults(project()) == []


def test_no_module_needs_itself() -> None:
    """There is no import circle, not even one that is closed inside a function or for the type checker."""
    assert circle(project()) == []


def test_the_project_is_read() -> None:
    """The two tests above saw modules: an empty project would please them too."""
    assert {"leases.errors", "leases.record", "leases.contract"} <= project().keys()


def test_the_table_names_each_module_once() -> None:
    """A module in two layers would be judged by the lower one alone."""
    groups = [group for groups in LAYERS for group in groups]
    assert len(groups) == len(set(groups))


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("leases.stray", "", "is in no layer"),
        ("leases.record", "import leases.stray", "which is in no layer"),
        ("leases.record", "from leases.machine import Machine", "not below it"),
        ("leases.record", "import leases.contract", "not below it"),
        ("leases.record", "from leases import machine", "not below it"),
        ("leases.record", "from .machine import Machine", "not below it"),
        ("leases.record", "from . import machine", "not below it"),
        ("leases.record", "def late():\n    from leases.lock import Lock", "not below it"),
        ("leases.record", "if TYPE_CHECKING:\n    from leases.lock import Lock", "not below it"),
        ("leases.record", "importlib.import_module('leases.lock')", "not below it"),
        ("leases.contract", "from leases.clock import Instant", "not below it"),
        ("leases_backends.memory", "from leases.machine import Machine", "not below it"),
        ("leases.testing.suite", "from leases.cli import main", "not below it"),
        ("leases.lock", "import leases_backends.memory", "imports none"),
        ("leases.registry", "import leases_backends.memory", "imports none"),
        ("leases.lock", "WHERE = 'leases_backends.memory'", "in a string"),
        ("leases.lock", "import requests", "not in the standard library"),
        ("leases_backends.memory", "from grpc import aio", "not in the standard library"),
        ("leases.machine", "import time", "is pure"),
        ("leases.machine", "import random", "is pure"),
        ("leases.machine", "def late():\n    import asyncio", "is pure"),
        ("leases.machine", "from leases.clock import now", "pass the instant in"),
        ("leases.machine", "import leases.clock", "pass the instant in"),
    ],
)
def test_a_forbidden_import_is_found(module: str, source: str, complaint: str) -> None:
    """Each rule refuses what it is there to refuse, in a sentence that names the rule."""
    modules = {"leases.machine": "", "leases.clock": "", "leases.lock": "", module: source}
    assert [fault for fault in faults(modules) if complaint in fault]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("leases.machine", "from leases.clock import Instant\nfrom collections.abc import Callable"),
        ("leases.lock", "from leases.machine import Machine\nimport threading"),
        ("leases.lock", "'''The backends are in leases_backends.'''"),
        ("leases.registry", "KNOWN = {'memory': 'leases_backends.memory:connect'}"),
        ("leases_backends.sqlite", "import sqlite3\nfrom leases_backends import shared"),
        ("leases.testing.suite", "from leases.testing.world import World"),
        ("leases.cli", "from .hold import main"),
    ],
)
def test_a_rightful_import_passes(module: str, source: str) -> None:
    """The rules refuse no more than they say."""
    assert faults({"leases.cli.hold": "", module: source}) == []


def test_a_circle_is_found() -> None:
    """Modules of one group may import one another, but not in a circle, be it closed as late as it will."""
    modules = {
        "leases.cli.a": "from leases.cli import b",
        "leases.cli.b": "from .c import x",
        "leases.cli.c": "def late():\n    import leases.cli.a",
    }
    assert faults(modules) == []
    assert set(circle(modules)) == modules.keys()


def test_no_file_names_a_folder_of_one_machine() -> None:
    """Whoever checks the project out finds no absolute path that exists only where it was written."""
    found = [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()}"
        for file in _texts(ROOT)
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if PERSONAL.search(line)
    ]
    assert found == []


@pytest.mark.parametrize("top", ["root", "home", "Users", "work"])
def test_a_personal_folder_is_recognised(top: str) -> None:
    """A personal folder is seen in prose and in quotes; a URL's path or a relative one is none."""
    assert PERSONAL.search(f"see /{top}/ann/leases")
    assert PERSONAL.search(f'"/{top}/ann"')
    assert not PERSONAL.search(f"https://example.org/{top}/ann")
    assert not PERSONAL.search(f"~/{top}/ann")


def _texts(folder: Path) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        if BUILT.fullmatch(entry.name) or entry.is_symlink():
            continue
        if entry.is_dir():
            yield from _texts(entry)
        elif entry.suffix in TEXT:
            yield entry
