"""Bad words, names, numbers and URLs: one line that ends in the next step, the code, and nothing left."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from leases.cli import COMMANDS, main
from leases_command import Shop, until
from mistakes import ASKING, HOLDING, check, check_line, left_in, left_running, on
from stores import Site

NO_UTF8: Final = os.fsdecode(b"\xff\xfe")  # as the system hands it on
HUGE: Final = "x" * 100_000
DIGITS: Final = "9" * 5000


@pytest.fixture
def shop(site: Site, tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(tmp_path, site)
    yield shop
    until(lambda: left_running(f"LEASES_URL={shop.url}\0") == [], 10.0)
    shop.close()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the commands run that are run here; nothing is to be left there, nor any thread."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LEASES_URL", f"sqlite://{tmp_path}/leases.db")
    before = set(threading.enumerate())
    yield tmp_path
    assert left_in(tmp_path) == []
    until(lambda: not {thread for thread in threading.enumerate() if not thread.daemon} - before)


# ---- words ---------------------------------------------------------------------------------------

WORDS: Final = [
    (("",), "--help"),
    ((NO_UTF8,), "--help"),
    ((HUGE,), "--help"),
    (("--", "hold"), "--help"),
    *(((command, "--frobnicate"), f"leases {command} --help") for command in COMMANDS),
    *(((command, f"--{HUGE}"), f"leases {command} --help") for command in ("list", "hold")),
    (("hold", NO_UTF8, "--", "true"), "use another"),
    (("hold", HUGE, "--", "true"), "shorten it"),
    (("hold", "job", "--holder", NO_UTF8, "--", "true"), "use another"),
    (("hold", "job", "--holder", HUGE, "--", "true"), "shorten it"),
    (("hold", "job", "--holder", "", "--", "true"), "give one"),
    (("hold", "job", "--meta", f"k={NO_UTF8}", "--", "true"), "clean it"),
    (("hold", "job", "--meta", f"k={HUGE}", "--", "true"), "elsewhere"),
    (("hold", "job", "--meta", "=v", "--", "true"), "build=17"),
    (("hold", "job", "--meta", '{"a": 1}', "--", "true"), "build=17"),
    (("hold", "job", "--ttl", DIGITS, "--", "true"), "choose one that is"),
    (("hold", "job", "--ttl", "nan", "--", "true"), "write 1.5"),
    (("hold", "job", "--ttl", "inf", "--", "true"), "write 1.5"),
    (("hold", "job", "--ttl", "1e9", "--", "true"), "write 1.5"),
    (("hold", "job", "--ttl", "", "--", "true"), "write 1.5"),
    (("hold", "job", "--ttl", "٣", "--", "true"), "write 1.5"),
    (("hold", "job", "--ttl", "2", "--kill-after", "2", "--", "true"), "longer --ttl"),
    (("hold", "job", "--slots", "0", "--", "true"), ""),
    (("hold", "job", "--slots", "many", "--", "true"), ""),
    (("hold", "job", "--slots", DIGITS, "--", "true"), ""),
    (("hold", "job", "--at-least-for", "-1", "--", "true"), ""),
    (("hold", "job", "--at-most-for", "soon", "--", "true"), ""),
    (("hold", "job", "--status-fd", "x", "--", "true"), ""),
    (("hold", "job", "--status-fd", "-1", "--", "true"), ""),
    (("hold", "job", "--status-fd", "987", "--", "true"), ""),
    (("hold", "job", "-E", DIGITS, "--", "true"), "0 to 255"),
    (("hold", "job", "-c"), "expected one argument"),
    (("status", NO_UTF8), "use another"),
    (("status", HUGE), "shorten it"),
    (("status", "a\tb"), "remove them"),
    (("list", NO_UTF8), "use another"),
    (("list", "\n"), "remove them"),
    (("list", HUGE), "shorten it"),
    (("watch", NO_UTF8), "use another"),
    (("watch", "--prefix", NO_UTF8), "use another"),
    (("watch", "job", "--prefix", "j"), ""),
    (("watch", "--every", "0"), ""),
    (("watch", "--every", "often"), "write 1.5"),
    (("validate", "job"), "leases validate --help"),
    (("validate", "job", "--holder", "me", "--token", "x"), ""),
    (("validate", "job", "--holder", "me", "--token", DIGITS), ""),
    (("validate", "job", "--holder", NO_UTF8, "--token", "1"), ""),
    (("validate", NO_UTF8, "--holder", "me", "--token", "1"), "use another"),
    (("break", "job"), "--if-token"),
    (("break", "job", "--if-token", "x"), ""),
    (("break", "job", "--if-token", DIGITS), ""),
    (("break", "job", "--if-token", "1.0"), "write a number"),
    (("break", "job", "--if-token", "-5"), ""),
    (("break", "job", "--if-token", 40 * "9"), "write a number"),
    (("break", NO_UTF8, "--if-token", "1"), "use another"),
    (("prune", NO_UTF8), "use another"),
    (("prune", "--older-than", "x"), "write 1.5"),
    (("prune", "--wait", "0"), "such as 60"),
    (("elect",), "NAME"),
    (("elect", "job", "true"), '"--"'),
    (("elect", "job", "--"), "leave it out"),
    (("elect", NO_UTF8), "use another"),
    (("elect", "job", "--ttl", "0"), "choose one that is"),
    (("elect", "job", "--priority", "high"), ""),
    (("elector",), "NAME"),
    (("elector", NO_UTF8), "use another"),
    (("elector", "job", "--ttl", "0"), "choose one that is"),
    (("elector", "job", "--http", "nowhere"), ""),
    (("elector", "job", "--http", "localhost:99999"), ""),
    (("elector", "job", "--drain", "x"), "write 1.5"),
    (("elector", "job", "--election", "other"), ""),
    (("doctor", "a", "b"), "leases doctor --help"),
    (("doctor", "nonsense"), "memory, sqlite"),
    (("doctor", "--ttl", "0"), "choose one that is"),
    (("doctor", "memory:", "--backend", "memory:"), "leave one out"),
    (("simulate", "--seeds", "many"), "leases simulate --help"),
    (("simulate", "--seeds", "-1"), ""),
    (("simulate", "--jobs", "0"), ""),
    (("simulate", "--kind", "redis"), "leases simulate --help"),
    (("completion",), "leases completion --help"),
    (("completion", "tcsh"), "leases completion --help"),
]  # fmt: skip


def _shown(value: object) -> str:
    words = " ".join(value) if isinstance(value, tuple) else str(value)
    return words.encode("ascii", "replace").decode()[:60]


@pytest.mark.parametrize(("words", "advice"), WORDS, ids=_shown)
def test_words_that_make_no_sense(
    folder: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], advice: str
) -> None:
    """Nothing is opened for them; 64."""
    code = main(words)
    out, err = capsys.readouterr()
    assert (code, out) == (64, ""), err
    check_line(err)
    assert advice in err


# ---- stores --------------------------------------------------------------------------------------

URLS: Final = [
    "",
    "nothing",
    "://",
    "//me:geheim@host",
    "redis://me:geheim@host",
    "sqlite://host/x",
    "sqlite:x.db?a=b",
    "sqlite:.",
    "sqlite:a\0b",
    "etcd://",
    "etcd://me:geheim@host:99999",
    "etcd://[::1",
    "etcd://host?ca=",
    "etcds://host?ca=/none/ca.pem",
    "consul://a,b,,c",
    "consul://host?token_file=/none/token",
    "consul://host?token=a%zz",
    "zookeeper://host:x",
    "zookeeper://host?acl=nobody:x",
    "kubernetes://Not_A_Namespace",
    "kubernetes://default?kubeconfig=/none",
    f"consul://{NO_UTF8}",
]  # fmt: skip


@pytest.mark.parametrize("url", URLS, ids=_shown)
@pytest.mark.parametrize("command", sorted(set(ASKING) - set(HOLDING)))
def test_url_that_makes_no_sense(
    folder: Path, capsys: pytest.CaptureFixture[str], command: str, url: str
) -> None:
    """Every command that asks a store says the same of a URL that is none, and shows no password; 64."""
    code = main(on(url, command))
    out, err = capsys.readouterr()
    assert (code, out) == (64, ""), err
    check_line(err)


@pytest.mark.parametrize(
    "url", ["", "redis://me:geheim@host", "sqlite:x.db?a=b", "etcds://host?ca=/none/ca.pem"]
)
@pytest.mark.parametrize("command", HOLDING)
def test_url_that_makes_no_sense_to_a_holder(shop: Shop, command: str, url: str) -> None:
    """What would hold says so before it has begun anything; 64."""
    check(shop.run(*on(url, command)), 64)
    assert left_in(shop.folder) == []


@pytest.mark.parametrize("url", ["nowhere", "redis://me:geheim@host", "sqlite:."])
@pytest.mark.parametrize("command", ["hold", "elector", "list"])
def test_environment_that_names_no_store(shop: Shop, command: str, url: str) -> None:
    """A wrong $LEASES_URL is a wrong --backend; 64."""
    check(shop.run(*ASKING[command], env={"LEASES_URL": url}), 64)
    assert left_in(shop.folder) == []


ONCE: Final = set(ASKING) - {"elect", "elector"}  # those that end by themselves
REFUSING: Final = {
    "etcd": "etcd://127.0.0.1:1",
    "zookeeper": "zookeeper://127.0.0.1:1",
    "consul": "consul://127.0.0.1:1",
}


@pytest.mark.waits
@pytest.mark.parametrize(
    ("command", "store"),
    [(command, "consul") for command in sorted(ONCE)] + [(command, "etcd") for command in ("hold", "status")]
    + [("status", "zookeeper")],
)  # fmt: skip
def test_store_where_nobody_listens(shop: Shop, command: str, store: str) -> None:
    """A server that is not there is told as that; 69."""
    check(shop.run(*on(REFUSING[store], command)), 69)
    assert left_in(shop.folder) == []


def test_path_that_is_too_long(shop: Shop) -> None:
    """Not all of it is repeated."""
    done = shop.run(*on(f"sqlite:{HUGE}", "status"))
    check(done, 77)
