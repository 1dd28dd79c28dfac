"""The recording in the README: played anew, it shows what it has to show, and what it shows is still so."""

from __future__ import annotations

import re
import runpy
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Final

import pytest

pytest.importorskip("pyte", reason="it plays on emulated terminals, where everything is checked")

DOCS: Final = Path(__file__).parent.parent / "docs"
SVG: Final = "{http://www.w3.org/2000/svg}"


@pytest.fixture(autouse=True)
def docs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its modules can be imported."""
    monkeypatch.syspath_prepend(str(DOCS))


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The scene, in a hurry, with a lease that is soon over."""
    file = tmp_path_factory.mktemp("recording") / "recording.svg"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(DOCS))
        patch.setattr(sys, "argv", ["record.py", str(file), "--ttl", "3", "--hurry", "5"])
        runpy.run_path(str(DOCS / "record.py"), run_name="__main__")
    return file.read_text(encoding="utf-8")


def rows(group: ET.Element) -> list[str]:
    """The rows of a group, by their height; those of a terminal on the right begin past 340."""
    found: dict[tuple[float, bool], list[tuple[float, str]]] = {}
    for text in group.iter(f"{SVG}text"):
        x = float(text.get("x", ""))
        found.setdefault((float(text.get("y", "")), x > 340), []).append((x, "".join(text.itertext())))
    return ["  ".join(part.strip() for _, part in sorted(parts)) for _, parts in sorted(found.items())]


def all_rows(picture: str) -> list[str]:
    """Every row that is shown at any time."""
    return [row for group in ET.fromstring(picture).iter(f"{SVG}g") for row in rows(group)]


def endings(picture: str) -> set[str]:
    """What stands at the end, piece by piece, without what differs from run to run.

    That is figures, how many rows of the report are to be seen, where a prompt came between, and so where a
    line was broken; and whether the shell was quicker to say that it was killed, or its guardian to say so.
    """
    last = [group for group in ET.fromstring(picture).iter(f"{SVG}g") if group.get("class") == "z"]
    panels: dict[tuple[bool, bool], list[tuple[float, float, str]]] = {}
    for text in (text for group in last for text in group.iter(f"{SVG}text")):
        x, y = float(text.get("x", "")), float(text.get("y", ""))
        panels.setdefault((y > 215, x > 340), []).append((y, x, "".join(text.itertext())))
    pieces: set[str] = set()
    for parts in panels.values():
        shown = re.sub(r"[\s$]", "", "".join(text for _, _, text in sorted(parts)))
        shown = re.sub(r"[\d.:]+", "#", re.sub(r"app-\w{8}", "app", shown))
        pieces |= set(re.split(r"(?:row#written,token#)+|Killed", shown)) - {""}
    return pieces


@pytest.mark.waits
def test_one_dies_and_another_takes_over(played: str) -> None:
    """Both shells' reports run, one after the other, with a rising token; leases watch names both."""
    shown = all_rows(played)
    tokens = list(dict.fromkeys(int(row.rpartition(" ")[2]) for row in shown if row.startswith("row ")))
    assert len(tokens) == 2 and tokens[0] < tokens[1]
    assert "Killed" in shown
    assert any("held by web-1" in row for row in shown)
    watched = [row.split()[1] for row in shown if row.startswith("nightly ")]
    assert {"web-1", "web-2"} <= set(watched)
    assert not [row for row in shown if "Traceback" in row or "error" in row]


@pytest.mark.waits
def test_the_picture_in_the_readme_is_of_these_commands(played: str) -> None:
    """The kept one ends as a new one does; on a busy host the command itself may have gone out of sight."""
    kept = (DOCS / "recording.svg").read_text(encoding="utf-8")
    pieces = endings(played)
    assert len(pieces) >= 3
    assert pieces <= endings(kept), "the commands say something else: run `make recording`"


def test_the_picture_needs_nothing_else() -> None:
    """No script, no font, no link, and not too much of it."""
    kept = (DOCS / "recording.svg").read_text(encoding="utf-8")
    tags = {element.tag.removeprefix(SVG) for element in ET.fromstring(kept).iter()}
    assert tags == {"svg", "title", "style", "rect", "text", "g"}
    assert re.findall(r"url\(|@import|href|https?://(?!www\.w3\.org/2000/svg)", kept) == []
    assert len(kept) < 150_000


def test_a_row_is_shown_for_its_while() -> None:
    """From the instant at which it came until the next took its place; the last stands, moved or not."""
    from film import END, Reel, Run, draw

    reel = Reel("shell", 20, 2)
    reel.note(0.0, [(Run(0, "$"),), ()])
    reel.note(2.0, [(Run(0, "$ <a>"),), ()])
    reel.note(4.0, [(Run(0, "$ <a>"),), (Run(0, "b", bold=True),)])
    picture = draw([[reel]], 10.0 - END, "a & b")
    root = ET.fromstring(picture)
    groups = {rows(group)[0]: group for group in root.iter(f"{SVG}g")}
    assert list(groups) == ["$", "$ <a>", "b"]
    assert [group.get("class") for group in groups.values()] == [None, "z", "z"]
    frames = re.findall(r"@keyframes (k\d)\{(.*)\}(?:$|</style>)", picture, re.MULTILINE)
    assert frames == [
        ("k0", "0.000%{visibility:visible}20.000%{visibility:hidden}"),
        ("k1", "0.000%{visibility:hidden}20.000%{visibility:visible}"),
        ("k2", "0.000%{visibility:hidden}40.000%{visibility:visible}"),
    ]
    assert groups["b"].get("style") == "animation:k2 10.00s step-end infinite"


def test_an_unchanged_row_is_drawn_once() -> None:
    """However often it is looked at."""
    from film import Reel, Run, draw

    reel = Reel("shell", 20, 1)
    for second in range(5):
        reel.note(float(second), [(Run(0, "same"),)])
    assert draw([[reel]], 5.0, "").count("same") == 1
