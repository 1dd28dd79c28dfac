"""`leases completion`: what real shells offer after a TAB."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from leases.cli import COMMANDS
from leases.cli.completion import SHELLS, script_for
from leases_command import Shop
from shells import shell
from stores import Site
from terminals import Terminal

# A line, what is offered for it, and what is not: the same in every shell.
OFFERED = [
    ("leases ", ["hold", "list", "help"], ["--nonblock", "job"]),
    ("leases sta", ["status"], ["list"]),
    ("leases help va", ["validate"], []),
    ("leases completion ", ["bash", "zsh", "fish"], []),
    ("leases hold --conf", ["--conflict-exit-code"], []),
    ("leases status --k", [], ["--kill-after", "--kind"]),
    ("leases status ", ["orders/1", "orders/2"], ["README.md"]),
    ("leases status orders/1 ", [], ["orders/2"]),
    ("leases status --json or", ["orders/1", "orders/2"], []),
    ("leases hold -w 3 or", ["orders/1", "orders/2"], []),
    ("leases hold orders/1 -w ", [], ["orders/2", "README.md"]),
    ("leases list --backend sqlite:nowhere.db or", [], ["orders/1"]),
    ("leases watch --prefix ord", ["orders/1"], []),
    ("leases doctor --backend etc", ["etcd://", "etcds://"], ["sqlite:///"]),
    ("leases simulate --kind s", ["sqlite"], ["etcd"]),
    ("leases simulate --svg REA", ["README.md"], []),
    ("leases hold orders/1 ", ["--"], ["orders/2"]),
    ("leases hold orders/1 -- hostn", ["hostname"], ["orders/1"]),
    ("leases hold orders/1 -- cat REA", ["README.md"], []),
]

# What bash does when TAB is pressed, as far as a script can.
_PRESS: str = r"""
source "$1"
compopt() { :; }
COMP_WORDBREAKS=$' \t\n"\'><=;|&(:' COMP_LINE=$2 COMP_POINT=${#2}
_leases leases
printf '%s\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def shop(site: Site, tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(tmp_path, site)
    (tmp_path / "README.md").touch()
    for name in ("orders/1", "orders/2"):
        shop.hold(name=name)
    yield shop
    shop.close()


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    for name in SHELLS:
        (tmp_path / f"completion.{name}").write_text(script_for(name), encoding="utf-8")
    return tmp_path


def environment(shop: Shop) -> dict[str, str]:
    """One in which `leases` is this one."""
    programs = shop.folder / "bin"
    programs.mkdir(exist_ok=True)
    leases = programs / "leases"
    leases.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m leases "$@"\n')
    leases.chmod(0o755)
    return {
        "PATH": f"{programs}:/usr/bin:/bin",
        "LEASES_URL": shop.url,
        "HOME": str(shop.folder),
        "XDG_CONFIG_HOME": str(shop.folder),
        "XDG_DATA_HOME": str(shop.folder),
    }


def offered_by(name: str, shop: Shop, line: str) -> list[str]:
    """What a shell offers at the end of a line."""
    script = shop.folder / f"completion.{name}"
    if name == "bash":
        words = [shell("bash"), "--norc", "-c", _PRESS, "-", str(script), line]
    else:
        words = [shell("fish"), "--no-config", "-c", f"source {script}; complete -C '{line}'"]
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=30, cwd=shop.folder, env=environment(shop), check=True
    )
    assert done.stderr == ""
    return [line.partition("\t")[0] for line in done.stdout.splitlines() if line]


@pytest.mark.waits
@pytest.mark.parametrize("name", ["bash", "fish"])
def test_what_is_offered(name: str, shop: Shop, scripts: Path) -> None:
    """Commands, options, their values, stores, locks, and another command behind "--"; and nothing else."""
    for line, there, absent in OFFERED:
        offered = offered_by(name, shop, line)
        # Of a word in which readline sees a border, only what comes behind the border is offered.
        assert [word for word in there if word not in offered] == [], (line, offered)
        assert [word for word in absent if word in offered] == [], (line, offered)


def test_borders_of_words_in_bash(shop: Shop, scripts: Path) -> None:
    """Readline takes colons and equals signs for borders, and gets what is behind the last one."""
    assert offered_by("bash", shop, "leases list --backend=etcds:") == ["//"]
    assert offered_by("bash", shop, "leases list --backend sqlite:REA") == ["README.md"]
    (shop.folder / "a folder").mkdir()
    assert offered_by("bash", shop, "leases simulate --svg a") == [r"a\ folder/"]


@pytest.mark.waits
def test_tab_in_bash(shop: Shop, scripts: Path) -> None:
    """On a real terminal TAB completes the line."""
    terminal = Terminal(shell("bash"), "--norc", "-i", env=environment(shop), cwd=str(shop.folder))
    try:
        terminal.type("source completion.bash; echo rea''dy\r")
        terminal.expect("ready")
        terminal.type("leases stat\t")
        terminal.expect("leases status ")
        terminal.type("--backend=$LEASES_URL orders/2")
        terminal.type("\r")
        terminal.expect('"orders/2" is held by')
    finally:
        terminal.close()


@pytest.mark.waits
@pytest.mark.parametrize("way", ["sourced", "found"])
def test_tab_in_zsh(shop: Shop, scripts: Path, way: str) -> None:
    """On a real terminal TAB completes the line, and lists what there is with what it means."""
    terminal = Terminal(shell("zsh"), "-f", "-i", env=environment(shop), cwd=str(shop.folder))
    try:
        terminal.type("stty cols 120 rows 50; autoload -Uz compinit; ")
        if way == "sourced":
            terminal.type("compinit -u -D; source completion.zsh; echo rea''dy\r")
        else:
            (shop.folder / "_leases").write_bytes((scripts / "completion.zsh").read_bytes())
            terminal.type("fpath=($PWD $fpath); compinit -u -D; echo rea''dy\r")
        terminal.expect("ready")
        for typed, seen in (
            ("leases sta", "leases status"),
            ("leases he", "leases help"),
            ("leases status orders/", "orders/1"),
            ("leases hold --conf", "--conflict-exit-code"),
            ("leases doctor --backend zookeepers", "zookeepers://"),
            ("leases simulate --kind s", "sqlite"),
            ("leases hold orders/1 -w 3 -- hostn", "hostname"),
            ("leases hold orders/1 -- cat REA", "README.md"),
        ):
            terminal.type(f"{typed}\t")
            terminal.expect(seen.removeprefix(typed))
            terminal.type("\x15")  # the line is not wanted any more
        terminal.type("leases \t")
        terminal.expect("break", "take a lock from its holder")
    finally:
        terminal.close()


def test_names_that_cannot_be_had(shop: Shop) -> None:
    """Who presses a key gets no error, waits for no store, and makes no file."""
    for url in ("sqlite:none.db", "sqlite:/none/none.db", "etcd://127.0.0.1:1/app", "nothing"):
        done = shop.run("list", "--names", "--quick", "--backend", url)
        assert done.stdout == ""
    assert not (shop.folder / "none.db").exists()


@pytest.mark.parametrize("name", SHELLS)
def test_every_command_is_completed(name: str) -> None:
    """The script is made from the parsers: it knows each command and its options."""
    script = script_for(name)
    assert all(command in script for command in COMMANDS)
    for option in ("nonblock", "if-token", "older-than", "svg"):
        assert option in script


def test_script_of_the_command(shop: Shop) -> None:
    """The command prints it; for another shell it says for which there is one."""
    done = shop.run("completion", "fish")
    assert (done.returncode, done.stdout, done.stderr) == (0, script_for("fish"), "")
    done = shop.run("completion", "tcsh")
    assert done.returncode == 64 and "fish" in done.stderr and done.stderr.count("\n") == 1
    assert os.path.exists(shop.path)
