"""The rule of the embedded store that the machine cannot see: one sequence numbers all writes of the file."""

from __future__ import annotations

from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

RIGHT = "number = row.last + 1"
PER_ROW = "number = (row.version or 0) + 1"


def module(*, broken: bool) -> ModuleType:
    """The store's own source as a fresh module, with versions counted per row if it is to be broken."""
    spec = find_spec("leases_backends._sqlite_file")
    assert spec is not None and spec.origin is not None
    source = Path(spec.origin).read_text(encoding="utf-8")
    assert source.count(RIGHT) == 2, "the mutant has to follow the source"
    fresh = ModuleType("leases_backends._sqlite_file_mutant")
    fresh.__dict__["__file__"] = spec.origin
    exec(compile(source.replace(RIGHT, PER_ROW if broken else RIGHT), spec.origin, "exec"), fresh.__dict__)  # noqa: S102 - that is what a mutant is
    return fresh


def tokens(fresh: Any, path: Path) -> list[int]:
    """The tokens of three acquisitions of one name, each released, with another name in between."""
    file = fresh.File(str(path), private=False)
    found: list[int] = []
    try:
        for name in ("a", "b", "a", "a"):
            done, row = file.swap(name, None, b"held", 1.0)
            assert done and row.version is not None
            if name == "a":
                found.append(row.version)
            assert file.swap(name, row.version, None, 1.0)[0]
    finally:
        file.close()
    return found


def rise(numbers: list[int]) -> bool:
    """Whether each is above the one before."""
    return all(a < b for a, b in pairwise(numbers))


@pytest.mark.parametrize("broken", [False, True], ids=["as it is", "versions per row"])
def test_tokens_rise_over_releases_because_one_sequence_numbers_the_file(
    tmp_path: Path, broken: bool
) -> None:
    """A row that was deleted would start at 1 again: the same token twice, and a late swap that hits."""
    assert rise(tokens(module(broken=broken), tmp_path / "leases.db")) is not broken
