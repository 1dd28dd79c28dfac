"""`leases watch`: a line for each change, or a table kept up to date; and a store that falls silent."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import urlsplit, urlunsplit

import pytest

from leases.cli import main
from leases.cli.rows import aligned, cut, in_order, is_bid, metadata, until_free, width_of
from leases.cli.sights import Sights
from leases.cli.signals import Signals
from leases.cli.watch import _Following
from leases.cli.watching import Looker, Seen
from leases.clock import Instant
from leases.contract import Slot
from leases.errors import RecordRefused
from leases.record import Claim
from leases.store import Status
from leases_command import LEASES, PATIENCE, Shop, until
from servers.proxy import Proxy
from stores import every_shared_store
from streams import next_line


def end(process: subprocess.Popen[str], number: int = signal.SIGTERM) -> tuple[int, str, str]:
    process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


# ---- lines ---------------------------------------------------------------------------------------


@every_shared_store
def test_lines_of_one_lock(shop: Shop) -> None:
    """First what is, then every change as the store tells of it; no renewal; a signal ends it with 0."""
    watch = shop.start("watch", "job")
    first = next_line(watch)
    assert (first["name"], first["held"], first["stale"]) == ("job", False, False)
    holder = shop.hold("--ttl", "2", "--holder", "web-3", "--meta", "build=17")
    held = next_line(watch)
    assert (held["held"], held["holder"], held["metadata"]) == (True, "web-3", {"build": "17"})
    assert held["token"] == shop.slot().token and 0 < held["expires_in"] <= 2
    assert abs(held["at"] - time.time()) < PATIENCE
    shop.await_renewal()
    assert end(holder)[0] == 0
    assert next_line(watch)["held"] is False
    assert end(watch) == (0, "", "")


def test_lines_of_all_locks(shop: Shop) -> None:
    """Each lock of the store; one that came and one that went between two looks are told at the second."""
    shop.hold(name="orders/1")
    watch = shop.start("watch", "--every", "0.2", "--prefix", "orders/")
    assert next_line(watch)["name"] == "orders/1"
    shop.hold(name="nightly")
    second = shop.hold(name="orders/2")
    line = next_line(watch)
    assert (line["name"], line["held"]) == ("orders/2", True)
    end(second)
    line = next_line(watch)
    assert (line["name"], line["held"]) == ("orders/2", False)
    assert end(watch, signal.SIGINT) == (0, "", "")


def test_holder_that_dies(shop: Shop) -> None:
    """The end of a dead holder's ttl is a change, told when it comes; a renewal in time is none."""
    holder = shop.hold("--ttl", "1")
    watch = shop.start("watch", "--every", "30")
    assert next_line(watch)["held"] is True
    for _ in range(2):  # With each it would have expired since the last look, if it was not looked again.
        shop.await_renewal()
    time.sleep(0.6)
    holder.kill()
    line = next_line(watch)
    assert (line["held"], line["expires_in"], line["stale"]) == (True, 0, False)
    slot = shop.slot()
    assert slot.claim is not None and 0.9 <= line["at"] - slot.claim.renewed < 20
    assert end(watch) == (0, "", "")


@pytest.mark.waits
def test_store_that_falls_silent(shop: Shop, etcd: Any) -> None:
    """It is said once; what was last seen stands until it must have expired; then all goes on."""
    at = urlsplit(etcd.url)
    name = f"watched-{os.getpid()}"
    with Proxy(at.port or 2379, at.hostname or "") as proxy:
        holder = shop.start("hold", name, "--ttl", "3", "--backend", etcd.url)
        watch = shop.start("watch", name, "--backend", urlunsplit(at._replace(netloc=proxy.at)))
        while not next_line(watch)["held"]:
            pass
        proxy.refuse()
        proxy.cut()
        line = next_line(watch)
        assert (line["held"], line["expires_in"], line["stale"]) == (True, 0, True)
        proxy.heal()
        line = next_line(watch)
        assert (line["held"], line["stale"]) == (True, False) and line["expires_in"] > 0
        code, out, err = end(watch)
    assert (code, out) == (0, "")
    first, second = err.splitlines()
    assert "is stale" in first and second == "leases watch: the store answers again"
    end(holder)


def test_first_look_that_fails(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    """A store that cannot be reached at all is told, and ends it."""
    done = shop.run("watch", "--backend", "etcd://127.0.0.1:1/app")
    assert done.returncode == 69 and done.stdout == "" and done.stderr.count("\n") == 1
    shop.run("hold", "job", "--", "true")
    for asked in ((), ("job",)):
        assert shop.run("watch", *asked, "--backend", "sqlite:none/x.db").returncode == 77
    for words in (("job", "--prefix", "j"), ("--every", "0"), ("--every", "soon"), ("a\nb",)):
        assert main(["watch", *words]) == 64
        assert capsys.readouterr().err.count("\n") == 1


def test_nobody_reads_it_any_more(shop: Shop) -> None:
    """It ends with its reader, and not at the next change, which may never come."""
    watch = shop.start("watch", "job")
    next_line(watch)
    assert watch.stdout is not None
    watch.stdout.close()
    assert watch.wait(PATIENCE) == 141
    assert watch.stderr is not None and watch.stderr.read() == ""


def test_record_that_is_not_ours(shop: Shop) -> None:
    """It is left out, and said once, however often it is met."""
    import sqlite3

    shop.hold(name="a")
    holder = shop.hold(name="b")
    with sqlite3.connect(shop.path) as db:
        db.execute("UPDATE leases SET body = 'by hand' WHERE name = 'a'")
    db.close()
    watch = shop.start("watch", "--every", "0.1")
    assert next_line(watch)["name"] == "b"
    end(holder)
    assert next_line(watch)["held"] is False
    code, _, err = end(watch)
    assert code == 0 and err.count('"a" is left out') == 1


# ---- the table -----------------------------------------------------------------------------------


class Window:
    """A program on a terminal that shows what is to be seen there, and can be resized."""

    def __init__(self, shop: Shop, *words: str, columns: int = 100, rows: int = 12, **env: str) -> None:
        pyte: Any = pytest.importorskip("pyte")  # The other Pythons have only what all of the suite needs.
        self._ours, theirs = pty.openpty()
        self.screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self._set_size(columns, rows)
        self.process = shop.start(
            *words, env={"TERM": "xterm", **env}, stdin=theirs, stdout=theirs, stderr=theirs, program=LEASES
        )
        os.close(theirs)

    def resize(self, columns: int, rows: int) -> None:
        self.screen.resize(rows, columns)
        self._set_size(columns, rows)
        self.process.send_signal(signal.SIGWINCH)

    def lines(self) -> list[str]:
        """What is to be seen now, without what is empty."""
        while select.select([self._ours], [], [], 0)[0]:
            try:
                data = os.read(self._ours, 65536)
            except OSError:  # Linux tells the end so.
                break
            self.raw += data
            self._stream.feed(data)
        return [line.rstrip() for line in self.screen.display if line.strip()]

    def until(self, true: Callable[[list[str]], object]) -> list[str]:
        until(lambda: true(self.lines()))
        return self.lines()

    def close(self) -> None:
        os.close(self._ours)

    def _set_size(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def test_table_that_is_drawn_in_place(shop: Shop) -> None:
    """One table, which follows what happens; Ctrl-C leaves it there to be read, and the cursor below it."""
    shop.hold("--holder", "web-3", "--meta", "build=17", name="orders/1")
    window = Window(shop, "watch", "--every", "0.1")
    lines = window.until(lambda lines: len(lines) == 3)
    assert lines[0].split() == ["NAME", "HOLDER", "TOKEN", "HELD", "FOR", "EXPIRES", "IN", "METADATA"]
    assert lines[1].split()[:2] == ["orders/1", "web-3"] and lines[1].endswith("build=17")
    assert "1 held of 1, in sqlite://" in lines[2]
    second = shop.hold("--holder", "web-4", name="orders/2")
    lines = window.until(lambda lines: len(lines) == 4)
    assert [line.split()[0] for line in lines[:3]] == ["NAME", "orders/1", "orders/2"]
    end(second)
    before = window.until(lambda lines: len(lines) == 3)
    window.until(lambda lines: lines[1] != before[1])  # It counts.
    window.process.send_signal(signal.SIGINT)
    assert window.process.wait(PATIENCE) == 0
    lines = window.lines()
    assert lines[1].startswith("orders/1") and len(lines) == 3
    assert (window.screen.cursor.x, window.screen.cursor.y) == (0, 3)
    assert b"\x1b[1mNAME" in window.raw
    window.close()


@pytest.mark.parametrize("refused", ["1", ""])
def test_colours_can_be_refused(shop: Shop, refused: str) -> None:
    """With NO_COLOR the table is drawn in place, and in no colour."""
    window = Window(shop, "watch", "job", NO_COLOR=refused)
    window.until(lambda lines: len(lines) == 3)
    assert (b"m" in window.raw.replace(b"\x1b[K", b"").split(b"NAME")[0]) == (not refused)
    end(window.process)
    window.close()


def test_terminal_without_tricks(shop: Shop) -> None:
    """On a dumb terminal there is a readable line for each change, and nothing that it could not show."""
    window = Window(shop, "watch", "job", columns=200, TERM="dumb")
    window.until(lambda lines: lines)
    shop.hold("--holder", "web-3")
    lines = window.until(lambda lines: len(lines) == 2)
    assert lines[0].endswith('"job" is free') and '"job" is held by web-3' in lines[1]
    assert b"\x1b" not in window.raw
    end(window.process)
    window.close()


def test_window_that_changes_its_size(shop: Shop) -> None:
    """What has no room is cut off or counted, and nothing is drawn twice."""
    for number in range(3):
        shop.hold("--meta", "text=" + 40 * "x", name=f"orders/{number}")
    window = Window(shop, "watch", "--every", "0.2")
    window.until(lambda lines: len(lines) == 5)
    window.resize(40, 5)
    lines = window.until(lambda lines: any("… and 2 more" in line for line in lines))
    assert len(lines) == 4 and [line.split()[0] for line in lines[:2]] == ["NAME", "orders/0"]
    assert all(len(line) < 40 for line in lines)
    window.resize(100, 20)
    lines = window.until(lambda lines: len(lines) == 5)
    assert [line.split()[0] for line in lines[:4]] == ["NAME", "orders/0", "orders/1", "orders/2"]
    end(window.process)
    window.close()


def test_table_of_a_silent_store(shop: Shop) -> None:
    """The last state stays, and a line below it says for how long it is stale, and why."""
    shop.hold("--holder", "web-3")
    window = Window(shop, "watch", "--every", "0.1", columns=150)
    window.until(lambda lines: len(lines) == 3)
    aside = shop.path.with_name("aside.db")
    for path in shop.folder.glob("leases.db*"):
        os.rename(path, aside.with_name(path.name.replace("leases", "aside")))
    (shop.folder / "leases.db").write_text(500 * "This is not a database.\n")
    lines = window.until(lambda lines: lines[-1].startswith("stale for "))
    assert lines[1].split()[:2] == ["job", "web-3"]
    end(window.process)
    window.close()


# ---- pieces --------------------------------------------------------------------------------------


def claim(holder: str = "web", ttl: float = 10.0, **more: Any) -> Claim:
    return Claim(holder, "1" * 32, "2" * 16, ttl, 7, acquired=0.0, renewed=0.0, **more)


def at(seconds: float) -> Instant:
    return Instant(seconds, seconds, 1000.0 + seconds)


def test_sights_tell_changes_once() -> None:
    """Each state once; a renewal is none, an expiry is, and what is gone is told as free and forgotten."""
    sights = Sights(None, None)
    sights.note([Slot("a", 1, claim(), 1), Slot("b", 1, claim("db"), 1)], at(0))
    assert {status.name for status in sights.changes(at(0))} == {"a", "b"}
    sights.note([Slot("a", 2, claim(), 2), Slot("b", 1, claim("db"), 1)], at(5))
    assert list(sights.changes(at(5))) == []
    assert sights.rest(at(5)) == 5 and sights.due(at(5), at(10)) and not sights.due(at(5), at(9))
    (expired,) = sights.changes(at(10))
    assert (expired.name, expired.held, expired.expires_in) == ("b", True, 0)
    sights.note([Slot("a", 2, claim(), 2)], at(11))
    (gone,) = sights.changes(at(11))
    assert (gone.name, gone.held) == ("b", False)
    assert [status.name for status in sights.statuses(at(11), at(11))] == ["a"]


def test_nobody_is_expired_before_somebody_has_looked() -> None:
    """While a look goes on that may show a renewal, a holder counts as one whose time is about to be over."""
    sights = Sights(None, None)
    sights.note([Slot("a", 1, claim(), 1)], at(0))
    (shown,) = sights.statuses(at(10), at(9))
    assert shown.expires_in is not None and 0 < shown.expires_in < 0.01 and until_free(shown) == "0.0 s"
    (shown,) = sights.statuses(at(10), at(10))
    assert shown.expires_in == 0 and until_free(shown) == "expired"


def test_table_forgets_what_is_gone() -> None:
    """A store whose names come and go costs a table that is open for days no more than what is there."""
    sights = Sights(None, None)
    for number in range(5):
        sights.note([Slot(str(number), number, claim(), number)], at(number))
        assert [status.name for status in sights.statuses(at(number), at(number))] == [str(number)]
    assert len(sights._sights) == 1


def test_strange_records_that_were_mended(shop: Shop) -> None:
    """The table counts the records that cannot be shown as they are now; a new one is said again."""
    said: list[str] = []

    class Following(_Following):
        def is_refused(self, name: str, refusal: Exception) -> None:
            said.append(name)

    strange = RecordRefused("a", "it is no record", b"by hand")
    looker = Looker(shop.url, None, "", 1.0, lambda: None)
    following = Following(looker, None, cast("Signals", None), every=False)
    for refused, counted in (([strange], 1), ([strange], 1), ([], 0), ([strange], 1)):
        looker.news.append(Seen([], list[Exception](refused), at(0), None, "here"))
        following.take_in()
        assert len(following.refused) == counted
    assert said == ["a", "a"]


def test_one_lock_is_shown_also_when_it_is_free() -> None:
    """Who asked for a lock sees that nobody holds it."""
    sights = Sights(None, "job")
    sights.note([Slot("job", None)], at(0))
    assert [status.name for status in sights.statuses(at(0), at(0))] == ["job"]
    assert [status.held for status in sights.changes(at(0))] == [False]
    assert list(sights.changes(at(1))) == []


def test_rows() -> None:
    """Slots by number, bids known as such, what is ours in words, wide characters in two columns."""
    names = ["a/slot-10", "a/slot-9", "b", "a"]
    assert [one.name for one in in_order(Status(name, False) for name in names)] == [
        "a",
        "a/slot-9",
        "a/slot-10",
        "b",
    ]
    bid = Status("lead/bid", True, metadata={"leases.priority": "3"})
    assert is_bid(bid) and metadata(bid) == "(priority 3)"
    assert not is_bid(Status("auction/bid", True, metadata={"by": "me"})) and not is_bid(Status("bid", True))
    assert width_of("日本") == 4 and width_of("e\u0301") == 1
    assert width_of("\u0915\u0941") == width_of("\u2764\ufe0f") == width_of("1\u20e3") == 1
    assert aligned([("日本", "x"), ("abcde", "y")]) == ["日本   x", "abcde  y"]
    assert cut("abcdef", 4) == "abc…" and cut("日本語", 5) == "日本…" and cut("abcd", 4) == "abcd"
