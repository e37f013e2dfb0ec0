"""Draws boots as SVG: under each other, on one time scale, with no text over another.

Every text has a place of its own by construction: stages and labels stand in columns left of the
bars, durations right of them in a margin that is kept free.

    stage   label         |  bar -------- 1.234 ms
"""

from __future__ import annotations

import math
import unicodedata
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

from chdebugd.ctl.plot_rows import BootRows, Row

# Pixels
WIDTH = 1200
MARGIN = 24
LABELS_X = 122
PLOT_X = 350
PLOT_END = 1086  # behind it is room for a duration
ROW = 20
BAR = 12
STAGE_BAR = 26
TICK_ROOM = 22
CHAR = 6.7  # of 12 px sans-serif, on the wide side
TITLE_SIZE = 1.65  # of the headings' letters, which are bold, to the others'
BAR_MIN = 1.5

TICKS = 8  # about so many
UNITS = ((1, "ns"), (1_000, "µs"), (1_000_000, "ms"), (1_000_000_000, "s"))
COLOURS = {
    "Host": "#8592a6",
    "Guest": "#c3cad4",
    "Firmware": "#e69f00",
    "Bootloader": "#cc79a7",
    "Kernel": "#0072b2",
    "Userspace": "#009e73",
    "Custom": "#7a5bb0",
}
"""Of the stages; told apart by people who see few colours, too (after Okabe and Ito)."""
MORE_COLOURS = ("#56b4e9", "#d55e00", "#6b8e23", "#a0522d", "#4b6584")
LIGHT = {"Guest", "Firmware"}
"""Stages whose colour takes dark text."""


@dataclass(frozen=True)
class Scale:
    """Nanoseconds to pixels."""

    nsec: int

    def x(self, nsec: float) -> float:
        """Where a time is."""
        return PLOT_X + (PLOT_END - PLOT_X) * nsec / self.nsec

    def ticks(self) -> list[tuple[float, str]]:
        """Round times and their texts."""
        rough = self.nsec / TICKS
        power = 10 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
        size, unit = next((s, u) for s, u in reversed(UNITS) if self.nsec / 2 >= s or s == 1)
        count = int(self.nsec // step)
        return [(at * step, f"{at * step / size:.10g} {unit}") for at in range(count + 1)]


class Drawing:
    """Elements from top to bottom; `y` is where the next one goes."""

    def __init__(self, scale: Scale) -> None:
        self.parts: list[str] = []
        self.y: float = MARGIN
        self._bands: list[str] = []
        self._scale = scale
        self._colours = dict(COLOURS)

    def colour(self, stage: str) -> str:
        """A stage's colour, the same throughout the drawing."""
        more = MORE_COLOURS[len(self._colours) % len(MORE_COLOURS)]
        return self._colours.setdefault(stage, more)

    def boot(self, rows: BootRows) -> None:
        """One boot: its heading, its stages, its spans, its steps."""
        self.y += 18
        self._text(MARGIN, self.y, fitted(rows.title, (WIDTH - 2 * MARGIN) / TITLE_SIZE), "title")
        self.y += 18
        self._text(MARGIN, self.y, fitted(rows.subtitle, WIDTH - 2 * MARGIN), "quiet")
        self.y += 12
        self._legend(rows.stages)
        top = self.y + TICK_ROOM
        self.y = top + 6
        at = len(self.parts)
        self._stage_bar(rows.stages)
        for row in rows.spans:
            self._span(row)
        self._steps(rows.steps)
        self.parts[at:at] = [*self._bands, *self._grid(top, self.y + 4)]
        self._bands.clear()
        self.y += 30

    def _legend(self, stages: list[Row]) -> None:
        totals: dict[str, int] = {}
        for row in stages:
            totals[row.stage] = totals.get(row.stage, 0) + row.nsec
        whole = sum(totals.values()) or 1
        x = float(MARGIN)
        self.y += 14
        for stage, nsec in totals.items():
            text = f"{fitted(stage, PLOT_X)} {short(nsec)} ({nsec / whole:.0%})"
            room = 18 + text_width(text) + 18
            if x + room > WIDTH - MARGIN:
                x, self.y = MARGIN, self.y + ROW
            self._add(
                f'<rect x="{x:.1f}" y="{self.y - 10:.1f}" width="12" height="12" rx="2" '
                f'fill="{self.colour(stage)}"/>'
            )
            self._text(x + 18, self.y, text, "label")
            x += room

    def _stage_bar(self, stages: list[Row]) -> None:
        self._text(MARGIN, self.y + 17, "stages", "quiet")
        for row in stages:
            x, width = self._extent(row)
            text = ""
            if text_width(row.label) + 10 < width:
                style = "on-light" if row.stage in LIGHT else "on-dark"
                text = _text(x + width / 2, self.y + 17, row.label, f"{style} middle")
            self._bar(row, self.y, STAGE_BAR, "stage", text)
        self.y += STAGE_BAR + 8

    def _span(self, row: Row) -> None:
        self._text(MARGIN, self.y + 10, "span", "quiet")
        self._text(LABELS_X, self.y + 10, self._label(row), "label")
        self._bar(row, self.y + 2, 8, "span", self._duration(row, self.y + 10))
        self.y += ROW

    def _steps(self, rows: list[Row]) -> None:
        self.y += 4
        stage = ""
        for at, row in enumerate(rows):
            if at % 2 == 0:
                self._bands.append(
                    f'<rect class="band" x="{MARGIN - 8}" y="{self.y - 3:.1f}" '
                    f'width="{WIDTH - 2 * MARGIN + 16}" height="{ROW}"/>'
                )
            if row.stage != stage:
                self._text(MARGIN, self.y + 11, fitted(row.stage, LABELS_X - MARGIN - 8), "strong")
                stage = row.stage
            self._text(LABELS_X, self.y + 11, self._label(row), "label")
            self._bar(row, self.y + 1, BAR, "step", self._duration(row, self.y + 11))
            self.y += ROW

    def _label(self, row: Row) -> str:
        return fitted(row.label, PLOT_X - LABELS_X - 10)

    def _duration(self, row: Row, y: float) -> str:
        x, width = self._extent(row)
        return _text(x + width + 6, y, short(row.nsec), "figure") if row.nsec else ""

    def _bar(self, row: Row, y: float, height: float, kind: str, text: str) -> None:
        """A bar; a script may move it by its data attributes when the scale changes."""
        x, width = self._extent(row)
        about = "\n".join(escape(printable(line)) for line in row.about.split("\n"))
        self._add(
            f'<g class="bar {kind}" data-begin="{row.begin}" data-end="{row.end}" '
            f"data-stage={quoteattr(printable(row.stage))}><title>{about}</title>"
            f'<rect x="{x:.2f}" y="{y:.1f}" width="{width:.2f}" height="{height}" rx="2" '
            f'fill="{self.colour(row.stage)}"/>{text}</g>'
        )

    def _extent(self, row: Row) -> tuple[float, float]:
        x = self._scale.x(row.begin)
        return x, max(BAR_MIN, self._scale.x(row.end) - x)

    def _grid(self, top: float, bottom: float) -> list[str]:
        lines = [f'<g class="grid" data-top="{top:.1f}" data-bottom="{bottom:.1f}">']
        for nsec, text in self._scale.ticks():
            x = self._scale.x(nsec)
            lines.append(f'<path d="M{x:.2f} {top:.1f}V{bottom:.1f}"/>')
            lines.append(_text(x, top - 6, text, "tick middle"))
        return [*lines, "</g>"]

    def _text(self, x: float, y: float, text: str, kind: str) -> None:
        self._add(_text(x, y, text, kind))

    def _add(self, element: str) -> None:
        self.parts.append(element)


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.2f}" y="{y:.1f}">{escape(printable(text))}</text>'


def printable(text: str) -> str:
    """Without what XML cannot hold."""
    return "".join(char if char.isprintable() else "\ufffd" for char in text)


def text_width(text: str) -> float:
    """How wide a label is at most, in pixels."""
    return CHAR * sum(map(_char_width, text))


def _char_width(char: str) -> float:
    if unicodedata.east_asian_width(char) in "WF":
        return 2
    return 1.4 if char.isupper() or char in "mw@%" else 1


def fitted(text: str, width: float) -> str:
    """The text, or as much of it as fits, with an ellipsis."""
    if text_width(text) <= width:
        return text
    while text and text_width(text) + CHAR > width:
        text = text[:-1]
    return f"{text.rstrip()}…"


def short(nsec: int) -> str:
    """A duration with three figures or so: `9 ns`, `57.1 µs`, `20.0 ms`, `1.403 s`."""
    size, unit = next((s, u) for s, u in reversed(UNITS) if abs(nsec) >= s or s == 1)
    value = nsec / size
    if unit == "ns":
        return f"{value:.0f} ns"
    if unit == "s":
        return f"{value:.3f} s"
    return f"{value:.{2 if value < 10 else 1}f} {unit}"


def draw(boots: list[BootRows]) -> tuple[str, float, int]:
    """The elements, their height in pixels, and how many nanoseconds the scale spans."""
    scale = Scale(max(1, *(boot.end for boot in boots)))
    drawing = Drawing(scale)
    for boot in boots:
        drawing.boot(boot)
    return "\n".join(drawing.parts), drawing.y, scale.nsec
