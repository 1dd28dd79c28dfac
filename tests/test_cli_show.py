"""`leases status` and `leases list`: what a store shows, for people and for programs."""

from __future__ import annotations

import json
import os
import sqlite3
import sys

import pytest

from leases import Lock, connect
from leases.cli import main
from leases.cli.rows import table
from leases.cli.status import describe
from leases.store import Status
from leases_command import Shop, until
from stores import every_shared_store
from stubborn import fresh_url


@pytest.fixture
def busy(shop: Shop) -> Shop:
    shop.hold("--holder", "web-3", "--meta", "build=17", name="orders/1")
    shop.hold("--holder", "web-4", "--ttl", "30", name="orders/2")
    shop.hold("--holder", "db", name="nightly")
    return shop


def test_status_of_a_held_lock(busy: Shop) -> None:
    """One sentence: who, for how long, with which token, until when."""
    done = busy.run("status", "orders/1")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith('"orders/1" is held by web-3 for ')
    assert f"token {busy.slot('orders/1').token}" in done.stdout
    assert "expires in 1" in done.stdout and done.stdout.endswith(", build=17\n")


def test_status_of_a_free_lock(shop: Shop) -> None:
    """A lock that nobody holds, or ever held, is free."""
    assert shop.run("status", "job").stdout == '"job" is free\n'


@every_shared_store
def test_status_as_json(busy: Shop) -> None:
    """One object, with the same facts; when it expires is known at one look where the store is local."""
    status = json.loads(busy.run("status", "orders/2", "--json").stdout)
    assert (status["name"], status["held"], status["holder"], status["ttl"]) == (
        "orders/2",
        True,
        "web-4",
        30,
    )
    assert status["token"] == busy.slot("orders/2").token
    assert status["expires_in"] is None if busy.site.kind.served else 0 < status["expires_in"] <= 30
    assert json.loads(busy.run("status", "other", "--json").stdout)["held"] is False


def test_list(busy: Shop) -> None:
    """A table by name, with a header, and without anything that only a terminal understands."""
    done = busy.run("list")
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["NAME", "nightly", "orders/1", "orders/2"]
    assert lines[0].split() == ["NAME", "HOLDER", "TOKEN", "HELD", "FOR", "EXPIRES", "IN", "METADATA"]
    assert lines[2].split()[1] == "web-3" and lines[2].endswith("build=17")
    column = lines[0].index("TOKEN")
    assert all(line[column - 2 : column] == "  " and line[column] != " " for line in lines)
    assert done.stdout.replace("\n", "").isprintable() and done.stderr == ""


def test_list_of_a_prefix(busy: Shop) -> None:
    """A prefix chooses, and what it does not match gives nothing, not even a header."""
    assert len(busy.run("list", "orders/").stdout.splitlines()) == 3
    done = busy.run("list", "none")
    assert (done.returncode, done.stdout) == (0, "")


@every_shared_store
def test_list_as_json(busy: Shop) -> None:
    """One object a line."""
    locks = [json.loads(line) for line in busy.run("list", "orders/", "--json").stdout.splitlines()]
    assert [(lock["name"], lock["holder"]) for lock in locks] == [
        ("orders/1", "web-3"),
        ("orders/2", "web-4"),
    ]
    assert locks[0]["metadata"] == {"build": "17"}


def test_bids_are_left_out(shop: Shop) -> None:
    """What candidates hold beside the lock that is led is nobody's lock; --all shows it, in words."""
    with Lock("lead/bid", store=shop.url, metadata={"leases.priority": "3"}), Lock("lead", store=shop.url):
        assert shop.run("list", "--names").stdout == "lead\n"
        shown = shop.run("list", "--all").stdout.splitlines()
    assert len(shown) == 3 and shown[2].startswith("lead/bid") and shown[2].endswith("(priority 3)")


def test_only_what_is_held(capsys: pytest.CaptureFixture[str]) -> None:
    """Where a release leaves a record, --held leaves it out."""
    with connect(fresh_url("zookeeper")) as store:
        store.lock("a").acquire().release()
        with store.lock("b"):
            for option, names in (("--all", "a\nb\n"), ("--held", "b\n")):
                assert main(["list", "--names", option, "--backend", store.hub.url]) == 0
                assert capsys.readouterr().out == names


def test_what_has_expired_is_not_what_is_held(shop: Shop) -> None:
    """Whoever died holds it in the store until another takes it: it is shown, and not as held."""
    assert shop.run("hold", "dead", "--ttl", "1", "--at-least-for", "1", "--", "true").returncode == 0
    with Lock("alive", store=shop.url):
        until(lambda: json.loads(shop.run("status", "dead", "--json").stdout)["expires_in"] == 0)
        assert shop.run("list", "--names").stdout == "alive\ndead\n"
        assert shop.run("list", "--names", "--held").stdout == "alive\n"


def test_foreign_record(busy: Shop) -> None:
    """A record that is not ours is named on stderr and refused by `status` and `hold`; it stays as it is."""
    with sqlite3.connect(busy.path) as db:
        db.execute("UPDATE leases SET body = 'made by \x1b[31mhand' WHERE name = 'nightly'")
    db.close()
    done = busy.run("list")
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 3
    assert '"nightly" is left out' in done.stderr and done.stderr[:-1].isprintable()
    for words in (("status", "nightly"), ("hold", "nightly", "--", "true")):
        done = busy.run(*words)
        assert done.returncode == 77
        assert "was not touched" in done.stderr and done.stderr.count("\n") == 1
        assert "\x1b" not in done.stderr


def test_nobody_reads_it(busy: Shop) -> None:
    """A reader that has gone ends it as SIGPIPE does, without a word."""
    read, write = os.pipe()
    os.close(read)
    for words in (("list",), ("status", "nightly"), ("--help",)):
        done = busy.run(*words, stdout=write)
        assert (done.returncode, done.stderr) == (141, "")
    os.close(write)


@every_shared_store
def test_output_that_cannot_say_it(shop: Shop) -> None:
    """A name outside the output's encoding is escaped, not an error."""
    shop.hold(name="größe")
    done = shop.run("list", env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0 and "gr\\xf6\\xdfe" in done.stdout
    assert sys.getfilesystemencoding() == "utf-8"


# ---- pieces --------------------------------------------------------------------------------------


def test_sentences() -> None:
    """What is not known is left out."""
    broken = Status("job", True, "", 5, 15.0, 0.0, 100.0, None, None, {}, "")
    assert (
        describe(broken, 160.0)
        == '"job" is held by nobody, because it was broken, token 5, renewed 1 min 0 s ago'
    )
    assert describe(Status("job", False, successor="b"), 0.0) == '"job" is free, and b is to have it next'


def test_table() -> None:
    """Columns are as wide as their widest cell, and lines have no blanks at their end."""
    assert table([("A", "B"), ("long", ""), ("x", "y")]) == "A     B\nlong\nx     y\n"
