"""What the README says is so: its programs run, and what it names is there."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
import types
from pathlib import Path

import pytest

from leases import Terms, connect
from leases.registry import OURS
from leases.testing.mutants import MUTANTS
from leases.testing.small_worlds import WORLDS
from leases_backends import memory

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
SHELL = "\n".join(re.findall(r"^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL))
CODE = "\n".join([SHELL, *re.findall(r"`([^`\n]+)`", README)])


def section(title: str) -> str:
    """The text under one heading."""
    found = re.search(rf"^## {title}$(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: str(program).partition("\n")[0])
def test_every_program_runs(program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the embedded store, with what a reader would have around it."""
    monkeypatch.setenv("LEASES_URL", f"sqlite:{tmp_path / 'leases.db'}")
    monkeypatch.chdir(tmp_path)
    mystore = types.ModuleType("mystore")
    vars(mystore)["connect"] = memory.connect
    monkeypatch.setitem(sys.modules, "mystore", mystore)
    (tmp_path / "program.py").write_text(program, encoding="utf-8")
    written: list[tuple[str, int]] = []
    around = {
        "rows": ["row"],
        "write": lambda row, token: written.append((row, token)),
    }
    with connect():
        runpy.run_path(str(tmp_path / "program.py"), around)
    assert written or not re.search(r"(?<!\.)\bwrite\(", program)


def test_every_make_target_is_there() -> None:
    """Whoever types one gets no *no rule to make target*."""
    named = set(re.findall(r"\bmake ([a-z]+)", CODE))
    targets = set(re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test"} <= named <= targets


def test_every_link_leads_to_a_file() -> None:
    """Relative to the README, as a browser follows it."""
    links = set(re.findall(r"\]\(([^)#:]+)\)", README)) | set(re.findall(r'src="([^":]+)"', README))
    assert links
    assert not [link for link in links if not (ROOT / link).exists()]


def test_every_example_is_linked() -> None:
    """An example that nobody finds helps nobody."""
    examples = {f"examples/{path.name}" for path in (ROOT / "examples").glob("*.*")} - {"examples/demo.py"}
    assert examples == set(re.findall(r"\]\((examples/[^)]+\.\w+)\)", section("Using it")))


def test_every_module_is_on_the_map() -> None:
    """In reading order, and each once."""
    there = {path.relative_to(ROOT).as_posix() for path in (ROOT / "leases").glob("*.py")}
    there -= {"leases/__init__.py", "leases/__main__.py"}
    named = re.findall(r"\((leases/\w+\.py)\)", section("Reading the code"))
    assert sorted(named) == sorted(there)


def test_every_option_of_hold_is_told() -> None:
    """The README names each option of `leases hold`, and no other."""
    shown = subprocess.run(
        [sys.executable, "-m", "leases", "hold", "--help"], check=True, capture_output=True, text=True
    )
    options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", shown.stdout)) - {"--help"}
    told = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", section("On the command line")))
    assert options == told


def test_every_command_is_there() -> None:
    """Each answers to --help."""
    commands = set(re.findall(r"^(?:\$ )?leases ([a-z]+)", CODE, re.MULTILINE))
    assert {"hold", "status", "list"} <= commands
    for command in commands:
        subprocess.run([sys.executable, "-m", "leases", command, "--help"], check=True, capture_output=True)


def test_it_counts_worlds_and_mutants_right() -> None:
    """It says of how many there are more, or as many."""
    shown = section("How it is shown")
    worlds, rules = re.findall(r"at least (\d+) worlds", shown), re.findall(r"More than (\d+) rules", shown)
    assert 0.8 * len(WORLDS) <= int(worlds[0]) <= len(WORLDS)
    assert 0.8 * len(MUTANTS) <= int(rules[0]) < len(MUTANTS)


def test_every_test_it_names_is_there() -> None:
    """What is said to be tested is tested, by the test that is named."""
    named = re.findall(r"\(tests/(test_\w+\.py)\) `(test_\w+)`", README)
    assert named
    for file, test in named:
        assert f"def {test}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), (file, test)


def test_the_demo_still_says_that() -> None:
    """Each line that is shown of it begins as a line that it prints."""
    shown = re.search(r"^```text\n(Seen.*?)^```$", section("Quick start"), re.MULTILINE | re.DOTALL)
    assert shown
    labels = re.findall(r"^  (\S.*?)  ", shown[1], re.MULTILINE)
    demo = (ROOT / "examples" / "demo.py").read_text(encoding="utf-8")
    assert len(labels) == demo.count("self.note(") + demo.count("self.judge(") - 1
    assert not [label for label in labels if f'"{label}"' not in demo]


def test_the_schemes_are_those_of_the_registry() -> None:
    """A store that is not there is not in the table, and one that is there is."""
    assert set(re.findall(r"^\| `([a-z]+):", section("Configuration"), re.MULTILINE)) == set(OURS)


def test_the_durations_are_those_of_the_terms() -> None:
    """The column for ttl = 15 is what `Terms` makes of it."""
    terms = Terms(15)
    told = re.findall(
        r"^\|.*\| ([0-9.]+) \| `(?:Lock|Terms)\((\w+)=\)` \|$", section("How it works"), re.MULTILINE
    )
    assert [name for _, name in told] == ["ttl", "hold", "renew", "attempt"]
    for figure, name in told:
        assert float(figure) == pytest.approx(getattr(terms, name), rel=0.01)
