"""The status page in a real browser, from a real sidecar, whose store is cut off and healed."""

from __future__ import annotations

import contextlib
import itertools
import re
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

import stores
from lab.places import Place
from leases_command import Shop
from servers.fixtures import _or_absent

pytest.importorskip("selenium", reason="only where everything is checked there is a browser")
from servers.browser import Browser, browsing

PATIENCE: Final = 30.0
TTL: Final = 2.0
EVIL: Final = "<script>document.title='struck'</script>&\"'"
one_browser: Final = pytest.mark.xdist_group("browser")  # Or every worker would start one.
etcd_place: Final = pytest.mark.parametrize(
    "place",
    [pytest.param(kind, id=kind.name) for kind in stores.STORES if kind.name == "etcd"],
    indirect=True,
)


@pytest.fixture(scope="module")
def opened() -> Iterator[Browser]:
    """One browser for all tests here; where there is none, in CI, they fail."""
    profile = tempfile.TemporaryDirectory(prefix="leases-browser-", ignore_cleanup_errors=True)
    with profile as folder, contextlib.ExitStack() as stack:
        with _or_absent():
            browser = stack.enter_context(browsing(Path(folder)))
        yield browser


@pytest.fixture
def browser(opened: Browser) -> Iterator[Browser]:
    """The same, with an empty page before and after."""
    opened.requests()
    opened.complaints()
    yield opened
    opened.show("about:blank")


class Replica:
    """A sidecar that runs, where it is told to, or on a port that was free."""

    def __init__(
        self,
        shop: Shop,
        holder: str,
        *,
        url: str | None = None,
        lock: str = "job",
        http: str = "127.0.0.1:0",
        ttl: float = TTL,
    ) -> None:
        words = ("--http", http, "--ttl", str(ttl), "--holder", holder, "--backend", url or shop.url)
        self.process: subprocess.Popen[str] = shop.start("elector", lock, *words)
        assert self.process.stderr is not None
        told = self.process.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", told)
        assert found, told
        self.at = found[0]

    def get(self, path: str = "/", method: str = "GET", **headers: str) -> str:
        """The body of an answer."""
        request = urllib.request.Request(self.at + path, method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=10) as answer:
            body: bytes = answer.read()
        return body.decode()


def until(true: Callable[[], object], what: Callable[[], object]) -> None:
    """Wait until something is so, and say what was so instead."""
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, what()
        time.sleep(0.05)


def sees(browser: Browser, **texts: str) -> None:
    """Wait until elements of the page, by id, begin with these texts; or are empty, or hidden."""

    def found() -> dict[str, str]:
        return {name: browser.text(name) for name in texts}

    def so() -> bool:
        return all(
            text == "" if not texts[name] else text.startswith(texts[name]) for name, text in found().items()
        )

    until(so, lambda: (texts, found(), browser.text("live")))


def seconds_left(browser: Browser) -> float:
    """Until the lease expires that is shown."""
    found = re.search(r"[\d.]+", browser.text("left"))
    return float(found[0]) if found else 0.0


@pytest.mark.waits
@etcd_place
def test_it_shows_a_whole_story_as_it_happens(browser: Browser, place: Place, shop: Shop) -> None:
    """Elected, cut off, unknown, healed with another leader, elected again, resigned: without a reload."""
    with place.link() as link:
        here = Replica(shop, "here", url=link.url)
        browser.show(f"{here.at}/ui")
        sees(browser, name="here", whose="This replica leads.", store="in reach", live="Live", lost="")
        assert browser.text("token") and browser.text("left").startswith("Expires in ")
        first = browser.text("token")

        link.proxy.silence()
        sees(
            browser,
            name="Unknown",
            whose="The store does not answer",
            store="out of reach",
            token="–",
            left="",
        )
        assert browser.ask("document.title") == "Unknown · job"

        there = Replica(shop, "there", url=place.url)
        until(lambda: '"is_leader":true' in there.get(), there.get)
        assert browser.text("name") == "Unknown"
        link.proxy.heal()
        sees(browser, name="there", whose="Another replica leads.", store="in reach", resign="")
        until(lambda: int(browser.text("token").strip("–") or 0) > int(first), lambda: browser.text("token"))

        there.get("/resign", "POST")
        sees(browser, name="here", whose="This replica leads.", resign="Resign…")
        browser.click("#resign")
        browser.click("#ask button[value=yes]")
        sees(browser, name="there", whose="Another replica leads.", resign="", said="")
        told = re.findall(r"^(here|there)$", browser.text("history"), re.MULTILINE)
        # Whoever was too slow for its ttl on a busy host may stand there twice.
        assert [name for name, _ in itertools.groupby(told)] == ["there", "here"] * 2
        # A create that got no answer may land yet, so the store need not confirm what has been released.
        assert [line for line in browser.complaints() if "/resign" not in line] == []


@pytest.mark.waits
@one_browser
def test_a_dead_sidecar_is_no_leader(browser: Browser, shop: Shop) -> None:
    """The page says that the connection is lost, then that nobody is known to lead; it finds the next."""
    replica = Replica(shop, "here")
    browser.show(f"{replica.at}/ui")
    sees(browser, name="here", live="Live")
    least = TTL

    def renewed() -> bool:
        nonlocal least
        left = seconds_left(browser)
        least = min(least, left)
        return left > least + 0.2

    until(renewed, lambda: browser.text("left"))
    replica.process.kill()
    sees(browser, lost="Connection lost", live="", store="not known", resign="")
    sees(browser, name="Unknown", whose="This replica does not answer", token="–")
    Replica(shop, "again", http=replica.at.removeprefix("http://"))
    sees(browser, name="again", whose="This replica leads.", id="again", live="Live", lost="")


@one_browser
def test_a_computer_that_has_slept_shows_no_old_name(browser: Browser, shop: Shop) -> None:
    """Its steady clock may have stood still; by the other one the leader was not heard of for long."""
    replica = Replica(shop, "here")
    browser.show(f"{replica.at}/ui")
    sees(browser, name="here", live="Live")
    browser.ask(
        "[now = performance.now(), date = Date.now(), "
        "performance.now = () => now, Date.now = () => date + 60000].length"
    )
    replica.process.kill()
    sees(browser, name="Unknown", lost="Connection lost", token="–")


@one_browser
def test_a_phone_shows_all_of_it(browser: Browser, shop: Shop) -> None:
    """At 360 pixels nothing is wider than the screen, whatever the names, in both schemes."""
    replica = Replica(shop, "x" * 200, lock="y" * 100)
    for dark in (False, True):
        browser.show(f"{replica.at}/ui", width=360, height=740, dark=dark)
        sees(browser, name="x" * 200)
        until(lambda: browser.text("history"), lambda: "no history")
        assert browser.ask("document.documentElement.scrollWidth") == 360
        ground = browser.ask("getComputedStyle(document.body).backgroundColor")
        shades = [int(part) for part in re.findall(r"\d+", ground)[:3]]
        assert (max(shades) < 64) if dark else (min(shades) > 192)


@one_browser
def test_names_are_text(browser: Browser, shop: Shop) -> None:
    """Markup in the name of a lock or a holder is shown, and not obeyed."""
    replica = Replica(shop, EVIL, lock=EVIL)
    browser.show(f"{replica.at}/ui")
    sees(browser, name=EVIL, lock=EVIL, live="Live")
    until(lambda: EVIL in browser.text("history"), lambda: browser.text("history"))
    assert browser.ask("document.title") == f"{EVIL} · {EVIL}"
    assert browser.ask("document.scripts.length") == 1
    assert browser.complaints() == []


@one_browser
def test_it_talks_to_its_sidecar_alone(browser: Browser, shop: Shop) -> None:
    """Also below another path, no request of the page goes anywhere else, and no asset is missing."""
    replica = Replica(shop, "here")
    browser.show(f"{replica.at}/ui/")
    sees(browser, name="here", live="Live")
    until(lambda: browser.text("history"), lambda: "no history")
    # The browser's own first page is of no matter.
    asked = {url for url in browser.requests() if not url.startswith(("data:", "chrome:"))}
    assert asked == {f"{replica.at}{path}" for path in ("/ui/", "/events?beat=1", "/history")}
    assert browser.complaints() == []


def test_who_may_not_resign_is_not_offered_it(shop: Shop) -> None:
    """A page that is asked for by another name of this host could be anybody's who is shown it."""
    replica = Replica(shop, "here")
    assert 'data-control="yes"' in replica.get("/ui")
    assert 'data-control="no"' in replica.get("/ui", host="example.org")


@one_browser
def test_a_screen_reader_finds_its_way(browser: Browser, shop: Shop) -> None:
    """Landmarks, headings, and what is read out when it changes; the keyboard gets to the button and back."""
    replica = Replica(shop, "here", ttl=30)  # The button goes with the lease.
    browser.show(f"{replica.at}/ui")
    sees(browser, name="here", resign="Resign…")
    tree = browser.accessibility()
    assert {"banner", "main", "contentinfo", "region"} <= {role for role, _ in tree}
    assert [name for role, name in tree if role == "heading"] == ["job", "Leader", "History"]
    assert browser.ask("document.getElementById('whose').closest('[aria-live=polite]') !== null")
    assert browser.ask(
        "document.getElementById('left').closest('[aria-live]') === null"
    )  # It changes each second.
    browser.press("Tab")
    assert browser.ask("document.activeElement.id") == "resign"
    browser.press("Enter")
    sees(browser, ask="Let another replica lead?")
    browser.press("Escape")
    sees(browser, ask="")
    assert browser.text("said") == "" and '"is_leader":true' in replica.get()
