"""A test that fails among the others is run once more, alone, where that can be called weather."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import again

SUITE = """
import os
from pathlib import Path
import pytest

def passes_at(time, name):
    runs = Path(os.environ["RUNS"]) / name
    with runs.open("a") as file:
        file.write(".")
    assert runs.stat().st_size >= time

def test_good():
    passes_at(1, "good")

@pytest.mark.parametrize("word", ["a b[c]::d"])
def test_weather(word):
    passes_at(2, "weather")

def test_fault():
    passes_at(3, "fault")

@pytest.mark.safety
def test_unsafe():
    passes_at(2, "unsafe")

@pytest.fixture
def leaves():
    yield
    passes_at(2, "left")

def test_leaves(leaves):
    pass

@pytest.mark.parametrize("number", range(%d))
def test_many(number):
    passes_at(2, f"many{number}")
"""


class Suite:
    """A few tests in a folder of their own, and how often each ran."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "test_it.py").write_text(SUITE % (again.MOST + 1))
        (folder / "pytest.ini").write_text("[pytest]\nmarkers = safety\n")

    def run(self, *arguments: str, ci: str = "true") -> subprocess.CompletedProcess[str]:
        """Run some of them."""
        return subprocess.run(
            [sys.executable, again.__file__, *arguments],
            cwd=self.folder,
            env={**os.environ, "RUNS": str(self.folder), "CI": ci, "PYTEST_ADDOPTS": "-p no:cacheprovider"},
            capture_output=True,
            text=True,
            timeout=60,
        )

    def runs(self, name: str) -> int:
        """How often it ran."""
        return len((self.folder / name).read_text())


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return Suite(tmp_path)


@pytest.mark.parametrize("crew", [(), ("-n", "2")], ids=["one", "two"])
def test_what_passes_alone_passes_and_is_told(suite: Suite, crew: tuple[str, ...]) -> None:
    """And what passed at once is not run again."""
    done = suite.run("-k", "good or weather", *crew)
    assert (done.returncode, suite.runs("good"), suite.runs("weather")) == (0, 1, 2), done.stdout
    assert "passed alone" in done.stdout.splitlines()[-1] and "test_weather" in done.stdout.splitlines()[-1]
    assert "1 failed, 1 passed" in done.stdout, "the first failure is shown"


def test_an_error_in_a_fixture_is_a_failure(suite: Suite) -> None:
    """It has the same second chance."""
    assert (suite.run("-k", "leaves").returncode, suite.runs("left")) == (0, 2)


def test_a_fault_fails_twice(suite: Suite) -> None:
    """Beside weather, too."""
    assert (suite.run("-k", "fault or weather").returncode, suite.runs("fault")) == (1, 2)


def test_all_that_pass_pass(suite: Suite) -> None:
    """And nothing is said of another run."""
    done = suite.run("-k", "good")
    assert done.returncode == 0 and "again" not in done.stdout


@pytest.mark.parametrize(
    ("which", "ci", "why"),
    [
        ("weather", "", "test_weather"),
        ("unsafe or weather", "true", "about safety"),
        ("many", "true", "can be called weather"),
    ],
    ids=["own-machine", "safety", "many"],
)
def test_no_second_chance(suite: Suite, which: str, ci: str, why: str) -> None:
    """The first failure stands."""
    done = suite.run("-k", which, ci=ci)
    assert done.returncode == 1 and why in done.stdout
    ran = [file.name for file in suite.folder.iterdir() if file.is_file() and not file.suffix]
    assert {suite.runs(name) for name in ran} == {1}


def test_a_run_that_broke_is_broken(suite: Suite) -> None:
    """By an error outside of all tests."""
    (suite.folder / "test_broken.py").write_text("import nothing_of_that_name\n")
    assert suite.run().returncode == 2
    assert suite.run("-k", "there_is_none", "--ignore=test_broken.py").returncode == 5
