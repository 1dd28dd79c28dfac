"""What the sidecar sends as its status page, before any browser has seen it."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any, Final

import pytest

from leases.sidecar import ui

EVIL: Final = "<script>document.title='struck'</script>&\"'"
LEADER: Final[dict[str, Any]] = {
    "name": "web-3",
    "is_leader": False,
    "id": "web-1",
    "token": 2**70 + 1,
    "since": 1.5e9,
    "expires_in": 4.2,
    "lock": "nightly",
    "backend": "etcd://e1/app",
    "reachable": True,
}
NOBODY: Final = {**LEADER, "name": "", "token": None, "since": None, "expires_in": None}


class Texts(HTMLParser):
    """The texts of a page, by the ids of the elements they are in, and the tags and attributes it uses."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts: dict[str, str] = {}
        self.tags: list[str] = []
        self.attributes: dict[str, list[str]] = {}
        self._id = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            self.attributes.setdefault(name, []).append(value or "")
        self._id = dict(attrs).get("id") or (self._id if tag == "time" else "")

    def handle_data(self, data: str) -> None:
        self.texts[self._id] = (self.texts.get(self._id, "") + data).strip()


def test_it_says_who_leads_without_a_script() -> None:
    """The first state stands in what is sent."""
    texts = Texts(ui.page(LEADER)).texts
    assert (texts["name"], texts["whose"]) == ("web-3", "Another replica leads.")
    assert (texts["token"], texts["left"]) == (str(2**70 + 1), "Expires in 4.2 s unless renewed")
    assert texts["since"].startswith("2017-07-14 02:40:00 UTC")
    assert Texts(ui.page({**LEADER, "is_leader": True})).texts["whose"] == "This replica leads."


def test_nobody_and_unknown_are_two_things() -> None:
    """A lock that is free, and a store that gives no answer."""
    assert Texts(ui.page(NOBODY)).texts["name"] == "Nobody"
    assert Texts(ui.page({**NOBODY, "reachable": False})).texts["name"] == "Unknown"


def test_what_a_store_says_is_escaped() -> None:
    """Whatever stands in the state or in the history brings no tag and no attribute into the page."""
    body = {key: EVIL if isinstance(value, str) else value for key, value in LEADER.items()}
    past = [{"name": EVIL, "token": 1, "since": 0.0, "until": None}]
    plain, evil = Texts(ui.page(LEADER, [{**past[0], "name": "x"}])), Texts(ui.page(body, past))
    assert evil.tags == plain.tags
    assert {name: len(values) for name, values in evil.attributes.items()} == {
        name: len(values) for name, values in plain.attributes.items()
    }
    assert evil.texts["name"] == evil.texts["lock"] == EVIL


@pytest.mark.parametrize("since", [1e300, -1e300, 1e12, -1e12])
def test_a_time_that_no_calendar_has_is_not_shown(since: float) -> None:
    """A clock that counts something else, at whoever leads, takes the page from nobody."""
    past = [{"name": "x", "token": 1, "since": since, "until": None}]
    assert Texts(ui.page({**LEADER, "since": since}, past)).texts["since"] == "–"


def test_a_place_in_a_name_is_not_filled_in() -> None:
    """What looks like a place of the template is a name like others."""
    assert Texts(ui.page({**LEADER, "name": "{{token}}"})).texts["name"] == "{{token}}"


def test_the_policy_lets_nothing_else_in() -> None:
    """No source but the page's own script and style; no element brings a style, or a script, of its own."""
    policy = ui.headers()["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy and "*" not in policy
    source = ui.page(LEADER)
    assert "style" not in Texts(source).attributes
    assert not [name for name in Texts(source).attributes if name.startswith("on")]
    assert set(re.findall(r"https?://[^'\" ]+", source)) == {"http://www.w3.org/2000/svg"}


def test_the_page_is_in_the_wheel(tmp_path: Path) -> None:
    """An installed sidecar has the same page as this one."""
    pytest.importorskip("hatchling")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=Path(__file__).parent.parent, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        shipped = archive.read("leases/sidecar/ui.html")
    assert shipped == resources.files("leases.sidecar").joinpath("ui.html").read_bytes()
