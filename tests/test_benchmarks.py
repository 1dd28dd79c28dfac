"""The benchmarks run. What they measure is for people to judge; no figure is asserted anywhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"
SCRIPTS = sorted(path.name for path in FOLDER.glob("[!_]*.py"))

# What the first column of its tables must show; what is optional on a machine is not among it.
ROWS = {
    "uncontended.py": ["sqlite: bare", "sqlite: Lock", "sqlite: Lock, asyncio", "memory: Lock", "filelock:"],
    "handoff.py": [
        "sqlite, processes: hint", "sqlite, processes: lock", "sqlite, threads: lock", "memory, tasks: lock",
        "sqlite, tasks of one process",
    ],
    "many.py": ["sqlite 5", "sqlite 20", "memory 5", "memory 20"],
    "imports.py": ["python -c pass", "import leases", "from leases import Lock"],
    "startup.py": ["python -c pass", "python -I -S -c pass", "leases hold x -- true", "all of leases"],
    "four_stores.py": ["etcd", "zookeeper", "consul", "kubernetes"],  # or that one is left out, and why
}  # fmt: skip


def test_every_benchmark_is_known_here() -> None:
    """A benchmark that no test runs rots."""
    assert sorted(ROWS) == SCRIPTS


@pytest.mark.waits
@pytest.mark.parametrize("script", SCRIPTS)
def test_benchmark_runs_alone_and_prints_its_rows(script: str) -> None:
    """In its tiny size each script ends well, complains of nothing and shows the rows it is there for."""
    run = subprocess.run(
        [sys.executable, "-W", "error", str(FOLDER / script), "--quick"],
        capture_output=True,
        text=True,
        timeout=100,
        cwd=FOLDER.parent,
    )
    assert run.returncode == 0, run.stderr
    assert not run.stderr
    shown = [line.strip() for line in run.stdout.splitlines()]
    assert [row for row in ROWS[script] if not any(line.startswith(row) for line in shown)] == []
