"""Help, the manual, and what is common to all commands: suggestions, JSON, outputs that are closed."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from leases.cli import COMMANDS, load, main, manual
from leases.cli.options import Help, UsageError, invocation, parse, parser_of
from leases.cli.prose import Listing, Paragraph, wrap
from leases.cli.prose import parse as blocks_of
from leases.cli.shape import Shape, shape_of, shapes
from leases_command import Shop

ROOT = Path(__file__).parent.parent


@pytest.fixture(params=sorted(COMMANDS))
def shape(request: pytest.FixtureRequest) -> Shape:
    """Each command."""
    name = request.param
    return shape_of(name, COMMANDS[name].summary, load(name))


def examples(shape: Shape) -> list[str]:
    """What is typed in its examples."""
    listings = [block for block in blocks_of(shape.prose) if isinstance(block, Listing)]
    return [term for block in listings if block.title == "examples" for term, _ in block.entries]


# ---- help ------------------------------------------------------------------------------------------


def simple_commands(line: str) -> Iterator[list[str]]:
    """The words of each command that a line of a shell runs."""
    lexer = shlex.shlex(line.replace("$LEASES_TOKEN", "1"), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    for word in (*lexer, "|"):
        if set(word) <= set("();<>|&"):
            yield words
            words = []
        else:
            words.append(word)


def test_every_example_can_be_typed(shape: Shape) -> None:
    """Each command has examples, and its parser takes each of them."""
    typed = [words for line in examples(shape) for words in simple_commands(line)]
    ours = [words[2:] for words in typed if words[:2] == ["leases", shape.name]]
    assert ours, f"{shape.name} has no example of its own"
    for words in ours:
        try:
            parse(f"leases {shape.name}", "x", load(shape.name), words)
        except UsageError as error:
            pytest.fail(f"{words}: {error}")


def test_help_fits(shape: Shape, monkeypatch: pytest.MonkeyPatch) -> None:
    """For any terminal of 60 columns or more; only what is typed is never broken."""
    for columns in (110, 80, 60):
        monkeypatch.setenv("COLUMNS", str(columns))
        text = parser_of(f"leases {shape.name}", shape.summary, load(shape.name)).format_help()
        long = [line for line in text.splitlines() if len(line) > columns]
        assert [line for line in long if line.strip() not in examples(shape) and line[:7] != "usage: "] == []
        assert "  leases " in text.partition("examples:")[2]


def test_help_by_another_way(shop: Shop) -> None:
    """`leases help COMMAND` is `leases COMMAND --help`."""
    assert shop.run("help", "watch").stdout == shop.run("watch", "--help").stdout
    assert shop.run("help", "--help").stdout == shop.run("--help").stdout
    done = shop.run("help", "nothing")
    assert done.returncode == 64 and 'no command "nothing"' in done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("lsit",), 'there is no command "lsit"; try list, or see leases --help'),
        (("xyzzy",), 'there is no command "xyzzy"; see leases --help'),
        (("--json", "list"), 'the command comes before its options, and "--json" is none; see leases --help'),
        (("--backend=sqlite:me:secret@x", "list"), '"--backend" is none; see leases --help'),
        (("list", "--jsn"), "there is no option --jsn; try --json, or see leases list --help"),
        (("list", "--bakend=etcd://me:secret@h"), "there is no option --bakend; try --backend, or see"),
        (("status", "a", "etcd://me:secret@h"), 'there is one word too many, "etcd://…"; see'),
        (("hold", "job", "--tll", "3", "--", "true"), "there is no option --tll; try --ttl, or see"),
    ],
)
def test_words_that_were_meant(words: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A word that is near to one that is known is answered with that one, and no secret is repeated."""
    code = main(words)
    told = capsys.readouterr()
    assert (code, told.out, told.err.count("\n")) == (64, "", 1)
    assert says in told.err and "secret" not in told.err


def test_prose() -> None:
    """Paragraphs are filled, listings keep their terms, and what fits stays as it stands."""
    text = "\nOne two\nthree.\n\ncodes:\n  0    yes,\n       indeed\n  128  no\n\n"
    text += "examples:\n  a -b 'c d'\n  e f  which is g\n"
    blocks = [
        Paragraph("One two three."),
        Listing("codes", [("0", "yes, indeed"), ("128", "no")]),
        Listing("examples", [("a -b 'c d'", ""), ("e f", "which is g")]),
    ]
    assert list(blocks_of(text)) == blocks
    assert wrap(text, 110) == text.strip("\n")
    narrow = "One two three.\n\ncodes:\n  0    yes, indeed\n  128  no\n\n"
    assert wrap(text, 14) == narrow + "examples:\n  a -b 'c d'\n  e f         which is g"


def test_options_are_told_once(shape: Shape) -> None:
    """With all their names before the one value."""
    parser = parser_of(f"leases {shape.name}", shape.summary, load(shape.name))
    for option in shape.options:
        assert all(name.startswith("-") for name in option.names) and option.help
        assert option.typed.startswith(", ".join(option.names))
    assert invocation(parser._actions[0]) == "-h, --help"
    with pytest.raises(Help):
        parse(parser.prog, shape.summary, load(shape.name), ["--help"])


# ---- the manual ------------------------------------------------------------------------------------


def test_the_page_is_the_one_that_is_made() -> None:
    """Whoever changes an option makes the page anew: make man."""
    assert (ROOT / "docs/leases.1").read_text(encoding="utf-8") == manual.page(), "run: make man"


def test_the_page_is_shipped() -> None:
    """Where man looks for it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    shared = project["tool"]["hatch"]["build"]["targets"]["wheel"]["shared-data"]
    assert shared == {"docs/leases.1": "share/man/man1/leases.1"}


def test_the_page_tells_everything() -> None:
    """Each command, option and exit code."""
    text = manual.page().replace("\\-", "-")
    for shape in shapes():
        assert f'.SS "leases {shape.name}"' in text
        for option in shape.options:
            assert option.names == ("-h", "--help") or option.typed.partition(" ")[0].rstrip(",") in text
    for code in ("64", "69", "70", "74", "75", "77", "78", "126", "127", "128+N"):
        assert f"\\fB{code}\\fR" in text


def test_the_page_can_be_set() -> None:
    """By groff with all warnings, of which there is none; nothing of the markup is left over."""
    groff = shutil.which("groff")
    if groff is None:
        pytest.skip("groff is not here (Debian: groff)")
    words = [groff, "-man", "-ww", "-Tutf8", "-P-c", "-rLL=80n"]
    done = subprocess.run(words, input=manual.page(), capture_output=True, text=True, check=True)
    assert done.stderr == ""
    text = re.sub(".\b", "", done.stdout)
    assert "leases validate NAME --holder NAME --token N [options]" in text
    assert "tar c /srv | gzip > /backup/srv.tar.gz'" in text and "\\f" not in text
    long = [line.strip() for line in text.splitlines() if len(line) > 80]
    assert set(long) <= {line for shape in shapes() for line in examples(shape)}


# ---- what is common to all -------------------------------------------------------------------------


def test_json_everywhere(shop: Shop) -> None:
    """With --json every command that has a result gives JSON on stdout, and nothing else."""
    shop.hold("--holder", "a")
    token = str(shop.slot().token)
    runs = [
        ("status", "job"),
        ("list",),
        ("validate", "job", "--holder", "a", "--token", token),
        ("doctor",),
        ("prune", "--older-than", "0", "--dry-run", "--wait", "1"),
        ("simulate", "--seeds", "1", "--jobs", "1"),
        ("simulate", "--seed", "3"),
        ("break", "job", "--if-token", token),
    ]
    for words in runs:
        done = shop.run(*words, "--json")
        assert (done.returncode, done.stderr) == (0, ""), words
        assert all(isinstance(json.loads(line), dict) for line in done.stdout.splitlines()), words
        assert done.stdout.count("\n") == 1, words
    have = {name for name in COMMANDS if "--json" in {n for o in shape_named(name).options for n in o.names}}
    assert set(COMMANDS) - have <= {"completion", "elector"}
    assert {words[0] for words in runs} | {"hold", "elect", "watch"} >= have - {"elector"}


def shape_named(name: str) -> Shape:
    return shape_of(name, COMMANDS[name].summary, load(name))


FINITE = [
    ("status", "job"), ("list",), ("list", "--json"), ("list", "--names"), ("doctor",), ("doctor", "--json"),
    ("prune", "--older-than", "0", "--dry-run", "--wait", "1"), ("simulate", "--seeds", "1", "--jobs", "1"),
    ("completion", "bash"), ("help",), ("help", "hold"), ("--version",), ("watch", "job"), ("elect", "other"),
    ("validate", "job", "--holder", "a", "--token", "1", "--json"),
]  # fmt: skip


def test_outputs_that_are_closed(shop: Shop) -> None:
    """Nobody reads it: 141 without a word. It cannot be written: 74, a line. It was never open: no error."""
    shop.hold("--holder", "a")
    read, write = os.pipe()
    os.close(read)
    closed = [(words, shop.start(*words, stdout=write)) for words in FINITE]
    for words, process in closed:
        _, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (141, ""), words
    os.close(write)
    with open("/dev/full", "wb") as full:
        for words in (("list",), ("help",), ("simulate", "--seeds", "1", "--jobs", "1")):
            done = shop.run(*words, stdout=full)
            assert done.returncode == 74 and done.stderr.count("\n") == 1, words
            assert "make room there" in done.stderr
    line = f'exec "{sys.executable}" -m leases list >&-'
    done = shop.run("-c", line, program=["sh"])
    assert (done.returncode, done.stderr) == (0, "")


def test_many_locks_are_listed(shop: Shop) -> None:
    """Thousands of them, to the last; a reader who has seen enough ends it."""
    import sqlite3

    shop.hold(name="job/0")
    with sqlite3.connect(shop.path) as db:
        columns = [row[1] for row in db.execute("PRAGMA table_info(leases)")]
        (row,) = db.execute("SELECT * FROM leases WHERE name = 'job/0'").fetchall()
        at = columns.index("name")
        rows = [(*row[:at], f"job/{number}", *row[at + 1 :]) for number in range(1, 10000)]
        db.executemany(f"INSERT INTO leases VALUES ({','.join('?' * len(columns))})", rows)
    db.close()
    done = shop.run("list", "job/", "--json")
    assert done.returncode == 0 and done.stdout.count("\n") == 10000
    assert shop.run("list", "--names").stdout.count("\n") == 10000
    line = f'{sys.executable} -m leases list --json | head -n 1; echo "${{PIPESTATUS[@]}}" >&2'
    done = shop.run("-c", line, program=["bash"])
    assert done.stdout.count("\n") == 1 and done.stderr == "141 0\n"


def test_semaphore_is_told_as_one(shop: Shop) -> None:
    """Its name alone is free, which would mislead; so its slots are told, and how many there are."""
    from leases import Semaphore

    one = Semaphore("pool", 3, store=shop.url, holder="a").acquire()
    two = Semaphore("pool", 3, store=shop.url, holder="b").acquire()
    first, *slots = shop.run("status", "pool").stdout.splitlines()
    assert first == '"pool" is a semaphore, 2 of 3 slots held'
    assert sorted(line.split(" is held by ")[1][0] for line in slots) == ["a", "b"]
    told = json.loads(shop.run("status", "pool", "--json").stdout)
    assert told["slots"] == 3 and sorted(slot["holder"] for slot in told["taken"]) == ["a", "b"]
    one.release()
    two.release()
    assert shop.run("status", "pool").stdout == '"pool" is free\n'
