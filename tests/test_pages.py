"""Each store has a page, all pages have the same headings, and what they say of URLs is so."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from leases import ConfigurationError
from leases.registry import EXTRAS, OURS, open_backend, scheme_of
from leases_backends._parameters import split
from leases_backends._url import address

ROOT = Path(__file__).parent.parent
PAGES = ROOT / "backends" / "leases_backends"
HEADINGS = [
    "Connect",
    "What is written where, and how to look at it",
    "Token",
    "Guarded keys",
    "Failover",
    "Permissions",
    "Limits",
    "When the store is cut off",
]
# The store of one process is for tests, and needs none.
STORES = sorted({reference.partition(":")[0].rpartition(".")[2] for reference in OURS.values()} - {"memory"})
EMBEDDED = {scheme for scheme in OURS if scheme not in EXTRAS}
URL = re.compile(rf"(?<![\w.])(?:{'|'.join(OURS)}):[^\s`'\"<>|)]*")


def page(store: str) -> str:
    """The page of a store."""
    return (PAGES / f"{store}.md").read_text(encoding="utf-8")


def prose(text: str) -> str:
    """A page without what is shown of a terminal, where colons mean other things."""
    return re.sub(r"^```console\n.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def schemes_of(store: str) -> list[str]:
    """The schemes of a store."""
    return [scheme for scheme, reference in OURS.items() if reference.startswith(f"leases_backends.{store}:")]


def options_of(scheme: str) -> set[str]:
    """The parameters that the URLs of a scheme may have, as its error tells them."""
    with pytest.raises(ConfigurationError) as raised:
        open_backend(f"{scheme}://host/x?nothing=1" if scheme not in EMBEDDED else f"{scheme}:x?nothing=1")
    names = re.search(r"the parameter 'nothing' is unknown; known here: (.*)", str(raised.value))
    assert names, raised.value
    return set(names[1].split(", ")) - {"none"}


def urls_in(text: str) -> Iterator[str]:
    """The URLs in a text, without those that leave something out, and without bare schemes."""
    for url in URL.findall(text):
        url = url.rstrip(".,;:")
        if "…" not in url and not url.endswith("//") and "://" in url:
            yield url


@pytest.mark.parametrize("store", STORES)
def test_headings_are_the_same_on_every_page(store: str) -> None:
    """Whoever knows one page finds everything on the others."""
    assert re.findall(r"^## (.*)$", page(store), re.MULTILINE) == HEADINGS
    assert len(re.findall(r"^# ", prose(page(store)), re.MULTILINE)) == 1


def test_no_page_is_without_a_store() -> None:
    """A page that was renamed, or forgotten, is found."""
    assert {path.stem for path in PAGES.glob("*.md")} == set(STORES)


@pytest.mark.parametrize("store", STORES)
def test_every_option_is_on_its_page(store: str) -> None:
    """Each parameter of a URL is told under Connect, or the page says that there is none."""
    connect = page(store).partition("## Connect")[2].partition("\n## ")[0]
    options = {option for scheme in schemes_of(store) for option in options_of(scheme)}
    assert [option for option in sorted(options) if not re.search(rf"[`?&]{option}\b", connect)] == []
    assert options or "There are no parameters" in connect


@pytest.mark.parametrize("text", ["README", *STORES])
def test_every_url_can_be_read(text: str) -> None:
    """What a reader copies is not refused for how it is written."""
    body = (ROOT / "README.md").read_text(encoding="utf-8") if text == "README" else page(text)
    urls = list(urls_in(prose(body)))
    assert urls
    for url in urls:
        scheme = scheme_of(url)
        known = options_of(scheme)
        if scheme in EMBEDDED:
            split(url, known)
        else:
            address(url, port=1, known=known, need_host=scheme != "kubernetes")


def test_every_scheme_is_on_a_page() -> None:
    """A scheme that no page shows is not found by anybody."""
    shown = {scheme_of(url) for store in STORES for url in urls_in(page(store))}
    assert set(OURS) - {"memory"} <= shown
