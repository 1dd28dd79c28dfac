"""Draws what terminals showed as one animated SVG that needs nothing else: no script, no font, no other file.

A row of a terminal keeps its text for a while; each text is drawn once, and shown for just that while by a
CSS animation in steps, which browsers run inside of `<img>`, too. Where nothing is animated, and for who has
asked for less motion, the last instant stands.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Final, NamedTuple

CELL, LINE, SIZE = 7.25, 16.0, 12.0  # a character's width, a row's height, the font's size, in pixels
PAD, BAR, GAP = 10.0, 24.0, 8.0  # around the text, above it for the title, between panes
END: Final = 4.0  # seconds for which the last instant stands before all begins anew

_COLOURS: Final = {
    "black": "#5c6370",
    "red": "#ff8080",
    "green": "#8fd694",
    "brown": "#e6c07b",
    "blue": "#7cb7ff",
    "magenta": "#d7a1f9",
    "cyan": "#7fd4d4",
    "white": "#e6e6e6",
}
_STYLE: Final = f"""\
text{{font:{SIZE}px ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;fill:#d5d8de;\
white-space:pre}}
.t{{fill:#8b93a1}}.p{{fill:#1c1f26;stroke:#333842}}.b{{font-weight:700}}.d{{fill:#8b93a1}}.c{{fill:#d5d8de}}.i{{fill:#1c1f26}}
g{{visibility:hidden}}g.z{{visibility:visible}}
@media (prefers-reduced-motion:reduce){{g{{animation:none!important}}}}"""


class Run(NamedTuple):
    """Characters side by side in one style.

    Attributes:
        at: the column of the first.
        text: the characters.
        colour: by pyte's name, or six hexadecimal digits; empty for the terminal's own.
        bold: in bold letters.
        reverse: dark on light, as the cursor is shown.
    """

    at: int
    text: str
    colour: str = ""
    bold: bool = False
    reverse: bool = False


Row = tuple[Run, ...]


@dataclass
class Reel:
    """What one terminal showed: for each row, what stood there from which second on."""

    title: str
    columns: int
    lines: int
    rows: dict[int, list[tuple[float, Row]]] = field(default_factory=dict[int, list[tuple[float, Row]]])

    def note(self, at: float, shown: Sequence[Row]) -> None:
        """Take down what is shown now, as far as it is new."""
        for number, row in enumerate(shown):
            told = self.rows.setdefault(number, [(0.0, ())])
            if told[-1][1] != row:
                told.append((at, row))


class Panel(NamedTuple):
    """A terminal in the picture, by its upper left corner in pixels."""

    reel: Reel
    x: float
    y: float

    @property
    def width(self) -> float:
        return self.reel.columns * CELL + 2 * PAD

    @property
    def height(self) -> float:
        return self.reel.lines * LINE + BAR + PAD


def draw(grid: Sequence[Sequence[Reel]], seconds: float, title: str) -> str:
    """The picture.

    Args:
        grid: terminals, side by side and below one another.
        seconds: how long the recording took.
        title: what it shows, for who cannot see it.
    """
    panels = list(_placed(grid))
    width = max(panel.x + panel.width for panel in panels)
    height = max(panel.y + panel.height for panel in panels)
    whiles: defaultdict[tuple[float, float | None], list[str]] = defaultdict(list)
    for panel in panels:
        for begin, end, drawn in _rows(panel):
            whiles[begin, end].append(drawn)
    rules, groups = _animated(whiles, seconds + END)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}"',
            f' width="{width:g}" height="{height:g}" role="img">',
            f"<title>{escape(title)}</title>",
            f"<style>{_STYLE}\n{rules}</style>",
            *map(_frame, panels),
            *groups,
            "</svg>\n",
        ]
    )


def _placed(grid: Sequence[Sequence[Reel]]) -> Iterator[Panel]:
    y = 0.0
    for line in grid:
        x, below = 0.0, y
        for reel in line:
            panel = Panel(reel, x, y)
            x += panel.width + GAP
            below = max(below, y + panel.height + GAP)
            yield panel
        y = below


def _frame(panel: Panel) -> str:
    x, y, title = panel.x, panel.y, escape(panel.reel.title)
    return (
        f'<rect class="p" x="{x + 0.5:g}" y="{y + 0.5:g}" width="{panel.width - 1:g}" '
        f'height="{panel.height - 1:g}" rx="6"/>'
        f'<text class="t" x="{x + panel.width / 2:g}" y="{y + 16:g}" text-anchor="middle">{title}</text>'
    )


def _rows(panel: Panel) -> Iterator[tuple[float, float | None, str]]:
    """From when until when, and what; None is the end of the recording."""
    for number, told in panel.reel.rows.items():
        ends: list[float | None] = [at for at, _ in told[1:]]
        for (begin, row), end in zip(told, [*ends, None], strict=True):
            if row:
                yield begin, end, "".join(_run(panel, number, run) for run in row)


def _run(panel: Panel, line: int, run: Run) -> str:
    x, y = panel.x + PAD + run.at * CELL, panel.y + BAR + line * LINE
    width = len(run.text) * CELL
    shade = f'<rect class="c" x="{x:g}" y="{y:g}" width="{width:g}" height="{LINE:g}"/>' * run.reverse
    words = "i" if run.reverse else " ".join(["b"] * run.bold + ["d"] * (run.colour == "dim"))
    kind = f' class="{words}"' if words else ""
    colour = _COLOURS.get(run.colour.removeprefix("bright"), f"#{run.colour}")
    fill = f' style="fill:{colour}"' if run.colour and run.colour != "dim" and not run.reverse else ""
    # The width is told, for the font will be another on every machine and has to keep to the columns.
    return (
        f'{shade}<text x="{x:g}" y="{y + 12:g}" textLength="{width:g}" lengthAdjust="spacingAndGlyphs"'
        f"{kind}{fill}>{escape(run.text, quote=False)}</text>"
    )


def _animated(
    whiles: Mapping[tuple[float, float | None], Iterable[str]], seconds: float
) -> tuple[str, list[str]]:
    """The style sheet's rules and the groups, one of each for all that is shown for the same while."""
    rules: list[str] = []
    groups: list[str] = []
    for number, ((begin, end), drawn) in enumerate(whiles.items()):
        last = ' class="z"' if end is None else ""
        if begin <= 0 and end is None:
            groups.append(f"<g{last}>{''.join(drawn)}</g>")
            continue
        steps = [(0.0, begin <= 0), *([(begin, True)] if begin > 0 else []), *([(end, False)] if end else [])]
        frames = "".join(
            f"{100 * at / seconds:.3f}%{{visibility:{'visible' if seen else 'hidden'}}}" for at, seen in steps
        )
        rules.append(f"@keyframes k{number}{{{frames}}}")
        style = f"animation:k{number} {seconds:.2f}s step-end infinite"
        groups.append(f'<g{last} style="{style}">{"".join(drawn)}</g>')
    return "\n".join(rules), groups
