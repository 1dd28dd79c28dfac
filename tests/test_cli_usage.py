"""What a user reads: help, and one line for every mistake, which ends in the next step."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from argparse import ArgumentTypeError
from pathlib import Path

import pytest

import leases
from leases.cli import COMMANDS, hold
from leases.cli.console import plain, span
from leases.cli.options import Parser, duration, exit_code, pair
from leases_command import Shop

OPTIONS = (
    "-n", "--nonblock", "-w", "--wait", "--timeout", "-E", "--conflict-exit-code", "--lost-exit-code",
    "--skip", "--ttl", "--kill-after", "--at-least-for", "--at-most-for", "--restart", "--slots", "-c",
    "--command", "--shell", "--no-stdin", "--holder", "--meta", "--status-fd", "--backend", "--json",
    "--verbose", "-x", "-e", "--exclusive", "-o", "--close", "-F", "--no-fork", "-s", "--shared", "-u",
    "--unlock",
)  # fmt: skip


# ---- help ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [("--help",), ("-h",), ("help",)])
def test_overview(shop: Shop, words: tuple[str, ...]) -> None:
    """The overview names every command."""
    done = shop.run(*words)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(re.search(rf"^  {command} ", done.stdout, re.MULTILINE) for command in COMMANDS)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help_of_a_command(shop: Shop, command: str) -> None:
    """Every command has help, on stdout, at success."""
    done = shop.run(command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: leases {command}")


@pytest.mark.parametrize("option", OPTIONS)
def test_help_explains_every_option(option: str) -> None:
    """Each option of `leases hold` is known and stands in its help, with a text."""
    parser = Parser(prog="leases hold")
    hold.add_arguments(parser)
    actions = {name: action for action in parser._actions for name in action.option_strings}
    assert actions[option].help
    assert re.search(rf"(^|[ ,]){option}\b", parser.format_help(), re.MULTILINE)
    assert set(actions) == {*OPTIONS, "-h", "--help"}


@pytest.mark.parametrize("code", ["64", "69", "70", "75", "77", "126", "127", "128+N"])
def test_help_explains_every_exit_code(code: str) -> None:
    """Each exit code of our own stands in the help."""
    parser = Parser(prog="leases hold")
    hold.add_arguments(parser)
    assert code in parser.format_help()


def test_version(shop: Shop) -> None:
    """--version says which it is."""
    assert shop.run("--version").stdout == f"leases {leases.__version__}\n"


def test_console_script() -> None:
    """The installed script is the same program."""
    script = Path(sys.executable).with_name("leases")
    if not script.exists():
        pytest.skip("leases is not installed beside this Python")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"leases {leases.__version__}\n"


def test_simulate(shop: Shop) -> None:
    """The simulator is a command too."""
    done = shop.run("simulate", "--seeds", "2")
    assert done.returncode == 0 and "0 violations" in done.stdout


# ---- mistakes ------------------------------------------------------------------------------------

MISTAKES = [
    ((), 64, "leases --help"),
    (("lock",), 64, "leases --help"),
    (("hold",), 64, "NAME"),
    (("hold", "job", "true"), 64, 'put "--" before the command: leases hold NAME [options] -- true'),
    (("hold", "job", "--frobnicate", "--", "true"), 64, "--frobnicate; see leases hold --help"),
    (("hold", "job", "--verb", "--", "true"), 64, "--verb"),
    (("hold", "job", "-F", "--", "true"), 64, "leave it out"),
    (("hold", "job", "-n", "-w", "3", "--", "true"), 64, "not allowed with"),
    (("hold", "job", "-c", "true", "--", "true"), 64, "leave one out"),
    (("hold", "job", "--shell"), 64, "write one"),
    (("hold", "job", "--"), 64, "or leave it out"),
    (("hold", "job", "--ttl", "soon", "--", "true"), 64, "write 1.5, 500ms, 2m or 1h"),
    (("hold", "job", "--ttl", "0", "--", "true"), 64, "choose one that is"),
    (("hold", "job", "--ttl", "8d", "--", "true"), 64, "choose one that is"),
    (("hold", "job", "-w", "-1", "--", "true"), 64, "-w"),
    (("hold", "job", "-E", "256", "--", "true"), 64, "0 to 255"),
    (("hold", "job", "--meta", "novalue", "--", "true"), 64, "KEY=VALUE"),
    (("hold", "job", "--meta", "k=" + 3000 * "x", "--", "true"), 64, "over the 2048"),
    (("hold", "job", "--holder", "a\nb", "--", "true"), 64, "remove them"),
    (("hold", "", "--", "true"), 64, "1 to 256 bytes"),
    (("hold", 300 * "x", "--", "true"), 64, "shorten it"),
    (("hold", "a\x1b[31mb", "--", "true"), 64, "remove them"),
    (("hold", "job", "--backend", "nothing", "--", "true"), 64, "memory, sqlite"),
    (("hold", "job", "--backend", "redis://me:secret@host", "--", "true"), 64, "memory, sqlite"),
    (("hold", "job", "--backend", "sqlite://host/x", "--", "true"), 64, "sqlite:///"),
    (("hold", "job", "--backend", "sqlite:x.db?a=b", "--", "true"), 64, "unknown"),
    (("hold", "job", "--backend", "sqlite:.", "--", "true"), 64, "name a file"),
    (("hold", "job", "--backend", "sqlite:text", "--", "true"), 77, "name another file"),
    (("hold", "job", "--backend", "sqlite:none/x.db", "--", "true"), 77, "create it"),
    (("status",), 64, "leases status --help"),
    (("status", "a", "b"), 64, "leases status --help"),
    (("status", "job", "--backend", "sqlite:text"), 77, "name another file"),
    (("list", "--backend", "nothing"), 64, "memory, sqlite"),
    (("list", "--backend", "sqlite:none/x.db"), 77, "create it"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "code", "advice"), MISTAKES, ids=lambda value: str(value)[:60])
def test_mistakes(shop: Shop, words: tuple[str, ...], code: int, advice: str) -> None:
    """A mistake costs one line on stderr, with what to do about it, and the code for it; nothing is left."""
    (shop.folder / "text").write_text(500 * "This is not a database.\n")
    done = shop.run(*words)
    assert (done.returncode, done.stdout) == (code, "")
    assert advice in done.stderr
    assert (
        done.stderr.startswith("leases") and done.stderr.count("\n") == 1 and done.stderr[:-1].isprintable()
    )
    assert "secret" not in done.stderr
    assert sorted(file.name for file in shop.folder.iterdir()) == ["text"]


def test_environment_names_no_store(shop: Shop) -> None:
    """A wrong $LEASES_URL is told as a wrong --backend is."""
    done = shop.run("hold", "job", "--", "true", env={"LEASES_URL": "nowhere"})
    assert done.returncode == 64 and '"nowhere" is not a store URL' in done.stderr


def test_store_that_does_not_answer(shop: Shop) -> None:
    """A store that gives no answer in the time allowed is 69, not a conflict, and --skip does not hide it."""
    shop.run("hold", "job", "--", "true")
    with shop.frozen():
        done = shop.run("hold", "job", "-w", "0.3", "--skip", "--", "touch", "ran")
    assert done.returncode == 69
    assert done.stderr.count("\n") == 1 and not (shop.folder / "ran").exists()
    assert shop.slot().claim is None


@pytest.mark.waits
def test_store_that_is_waited_for_in_silence(shop: Shop) -> None:
    """Waiting for a store that does not answer is told once, also where nobody asked, as it may never end."""
    shop.run("hold", "job", "--", "true")
    with shop.frozen():
        done = shop.run("hold", "job", "-w", "7", "--ttl", "2", "--", "true")
    assert done.returncode == 69
    first, last = done.stderr.splitlines()
    assert first.startswith("leases: waiting for the store: ") and last.startswith("leases: ")


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_store_that_is_forbidden(shop: Shop) -> None:
    """A file that this user cannot write is 77."""
    shop.run("hold", "job", "--", "true")
    shop.path.chmod(0o400)
    done = shop.run("hold", "job", "--", "true")
    assert done.returncode == 77 and "write permission" in done.stderr


# ---- pieces --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("15", 15), ("1.5", 1.5), (".5", 0.5), ("2.", 2), ("500ms", 0.5), ("90s", 90), ("2m", 120),
     ("1.5h", 5400), ("7d", 604800)],
)  # fmt: skip
def test_durations(text: str, seconds: float) -> None:
    """Durations are seconds, with fractions, or have a unit."""
    assert duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "s", "-1", "+1", "1e3", "nan", "inf", "1 s", "1_0", "1S", "2w", "1m30s", "٣", "1\n"]
)
def test_no_durations(text: str) -> None:
    """Anything else is refused, and never guessed."""
    with pytest.raises(ArgumentTypeError, match="is not a duration"):
        duration(text)


@pytest.mark.parametrize("text", ["", "-1", "256", "1.0", "x", "²"])
def test_no_exit_codes(text: str) -> None:
    """An exit code is a number from 0 to 255."""
    with pytest.raises(ArgumentTypeError):
        exit_code(text)


def test_pairs() -> None:
    """The first equals sign parts key and value."""
    assert pair("a=b=c") == ("a", "b=c") and pair("a=") == ("a", "")
    for text in ("", "a", "=b"):
        with pytest.raises(ArgumentTypeError):
            pair(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0.0 s"), (0.04, "0.0 s"), (9.94, "9.9 s"), (12.9, "12 s"), (60, "1 min 0 s"),
     (3599, "59 min 59 s"), (3600, "1 h 0 min"), (90061, "1 d 1 h")],
)  # fmt: skip
def test_spans(seconds: float, text: str) -> None:
    """A length of time is told in two units at most."""
    assert span(seconds) == text


def test_plain_text() -> None:
    """What a terminal would obey is shown instead."""
    assert plain("a\x1b[31mé\n") == "a\\x1b[31mé\\n"


def test_nothing_is_loaded_that_is_not_needed(shop: Shop) -> None:
    """A held command pays for no import that it does not use."""
    words = (sys.executable, "-X", "importtime", "-m", "leases", "hold", "job", "--", "true")
    done = subprocess.run(
        words, capture_output=True, text=True, env={**os.environ, "LEASES_URL": shop.url}, check=True
    )
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "leases.cli.waiting" in loaded
    assert not loaded & {
        "asyncio", "ctypes", "hashlib", "importlib.metadata", "leases.aio",
        "leases.elector", "leases.lock", "leases.sidecar", "leases.store", "leases.testing", "logging",
        "multiprocessing", "pathlib", "queue", "random", "secrets", "shutil", "socket", "ssl", "subprocess",
        "tempfile", "textwrap", "traceback", "urllib.parse", "uuid",
    }  # fmt: skip
