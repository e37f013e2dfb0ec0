"""`plot`: drawings that are well-formed and readable, and a page that works in a real browser."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chdebugd.ctl.boots import Boot, Mark
from chdebugd.ctl.plot import page, svg
from chdebugd.ctl.plot_drawing import Scale, fitted, short, text_width
from chdebugd.ctl.plot_rows import ROWS_MAX, rows_of
from chdebugd.ctl.saved_runs import document
from tests.ctl.boots import boot
from tests.ctl.chromium import evaluate
from tests.dbus.conftest import ROOT

SVG = "{http://www.w3.org/2000/svg}"
needs_chromium = pytest.mark.skipif(
    shutil.which("chromium") is None, reason="chromium is not installed; make deps installs it"
)


def named(name: str, stage: str, code: int = 0x40) -> Boot:
    marks = tuple(Mark(code, 10**7 + at * 10**6, at + 1, 0, name, stage) for at in range(3))
    return Boot("vm", "0" * 32, marks)


CROWD = boot(*((0x40 + at % 32, 5 + at * 1e-5) for at in range(40)), (0x60, 900))
DRAWINGS = {
    "demo": [boot((0, 5), (1, 9), (0x20, 9.1), (0x40, 12), (0x60, 30), (0xFF, 30.1))],
    "crowd": [CROWD],
    "hours": [boot((0, 5), (0x40, 5_000_000), (0x60, 9_000_000))],
    "nanoseconds": [Boot("vm", "0" * 32, (Mark(0, 1, 1), Mark(1, 9, 2)))],
    "nothing": [Boot("vm", "0" * 32)],
    "long names": [named("N" * 100, "S" * 100)],
    "wide names": [named("漢字" * 20, "ステージ名前")],
    "many": [boot(*((at % 256, 5 + at) for at in range(300)))],
    "several": [boot((0, 5), (0x40, 50)), boot((0, 5), (0x40, 20)), CROWD],
    "request": [boot((0, 5), (0x40, 50), requested_nsec=-30_000_000)],
    "spans": [boot((0x40, 10), (0x41, 30), (0x60, 30.5), code_map="cloud-hypervisor")],
}


def drawing(name: str) -> str:
    return svg(DRAWINGS[name], "request" if name == "request" else "start")


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_drawing_is_well_formed(name: str) -> None:
    root = ET.fromstring(drawing(name))

    assert root.tag == f"{SVG}svg"
    assert root.find(f"{SVG}title") is not None
    steps = [node for node in root.iter(f"{SVG}g") if "step" in node.get("class", "")]
    rows = [row for each in DRAWINGS[name] for row in rows_of(each, "start").steps]
    assert len(steps) >= len(rows)
    for node in root.iter(f"{SVG}rect"):
        assert float(node.get("width", "0")) > 0
        assert float(node.get("x", "0")) + float(node.get("width", "0")) <= 1200


@given(st.text(max_size=100), st.text(max_size=30))
def test_no_name_breaks_a_drawing(name: str, stage: str) -> None:
    root = ET.fromstring(svg([named(name, stage or "S")]))

    assert len(list(root.iter(f"{SVG}g"))) > 3


def test_bars_lie_where_their_times_are() -> None:
    root = ET.fromstring(svg([boot((0x40, 10), (0x41, 30), (0x60, 40))]))

    by_label = {}
    for bar in root.iter(f"{SVG}g"):
        if "step" in bar.get("class", ""):
            rect = bar.find(f"{SVG}rect")
            assert rect is not None
            extent = float(rect.get("x", "")), float(rect.get("width", ""))
            by_label[(bar.get("data-begin"), bar.get("data-end"))] = extent
    scale = Scale(40_000_000)
    x, width = by_label[("10000000", "30000000")]
    assert x == pytest.approx(scale.x(10_000_000), abs=0.01)
    assert x + width == pytest.approx(scale.x(30_000_000), abs=0.01)
    assert (scale.x(0), scale.x(40_000_000)) == (350, 1086)


def test_what_a_bar_means_is_told_in_words() -> None:
    root = ET.fromstring(svg([boot((0x40, 10), (0x41, 30))]))

    titles = [node.text for node in root.iter(f"{SVG}title")]
    assert "Kernel: 0x40 to 0x41\n20.000ms, from 10.000ms to 30.000ms" in titles


def test_a_long_boot_shows_its_longest_steps_and_folds_the_others() -> None:
    rows = rows_of(DRAWINGS["many"][0], "start").steps

    assert len(rows) <= 2 * ROWS_MAX + 2
    folded = [row for row in rows if "short steps" in row.label]
    assert folded
    for before, after in pairwise(rows):
        assert before.end == after.begin


@pytest.mark.parametrize(
    ("nsec", "text"),
    [
        (0, "0 ns"),
        (9, "9 ns"),
        (57_123, "57.1 µs"),
        (5_700, "5.70 µs"),
        (20_024_000, "20.0 ms"),
        (1_402_744_000, "1.403 s"),
    ],
)
def test_durations_are_short(nsec: int, text: str) -> None:
    assert short(nsec) == text


@given(st.text(max_size=60), st.floats(20, 300))
def test_a_fitted_text_fits(text: str, width: float) -> None:
    assert text_width(fitted(text, width)) <= width


@given(st.integers(1, 10**14))
def test_ticks_are_round_and_few(nsec: int) -> None:
    ticks = Scale(nsec).ticks()

    assert 1 <= len(ticks) <= 10
    assert len({text for _, text in ticks}) == len(ticks)


OVERLAPS = """
    const seen = [];
    for (const svg of document.querySelectorAll("svg")) {
        const paper = svg.getBoundingClientRect();
        const texts = [...svg.querySelectorAll("text")].map(text =>
            ({ text: text.textContent, at: text.getBoundingClientRect() }));
        for (const [first, one] of texts.entries()) {
            if (one.at.left < paper.left || one.at.right > paper.right)
                seen.push(one.text + " leaves the paper");
            for (const other of texts.slice(first + 1)) {
                const wide = Math.min(one.at.right, other.at.right) -
                    Math.max(one.at.left, other.at.left);
                const high = Math.min(one.at.bottom, other.at.bottom) -
                    Math.max(one.at.top, other.at.top);
                if (wide > 0.5 && high > 3)
                    seen.push(svg.id + ": " + one.text + " lies over " + other.text);
            }
        }
    }
    return [document.querySelectorAll("svg text").length, seen];
"""


@needs_chromium
def test_no_text_lies_over_another_in_a_browser(tmp_path: Path) -> None:
    drawings = [drawing(name).replace("<svg ", f'<svg id="{name}" ', 1) for name in DRAWINGS]

    count, seen = evaluate(f"<body>{''.join(drawings)}</body>", OVERLAPS, tmp_path)

    assert count > 500
    assert seen == []


VISIBLE = """
    const shown = () => bars.filter(bar => bar.node.style.display != "none");
    const wheel = (x, by) => svg.dispatchEvent(
        new WheelEvent("wheel", { deltaY: by, clientX: x, clientY: 300, cancelable: true }));
    const key = name => dispatchEvent(new KeyboardEvent("keydown", { key: name }));
    const pointer = (node, kind, x) => node.dispatchEvent(
        new PointerEvent(kind, { clientX: x, clientY: 300, bubbles: true }));
    const tick = () => document.querySelector("g.grid text:last-child").textContent;
"""
HOVER = """
    const kernel = bars.find(bar => bar.about.includes("0x40 to 0x60"));
    pointer(kernel.node, "pointermove", 500);
    const card = document.getElementById("card");
    const shownText = card.textContent, display = card.style.display;
    pointer(kernel.node, "pointerleave", 500);
    return [shownText, display, card.style.display];
"""
ZOOM = """
    const before = shown().length, whole = view.end;
    for (let i = 0; i < 12; i++) wheel(800, -1);
    const zoomed = { ...view }, few = shown().length, label = tick();
    pointer(svg, "pointerdown", 700); pointer(svg, "pointermove", 800);
    dispatchEvent(new PointerEvent("pointerup"));
    const moved = { ...view };
    key("0");
    const again = shown().length, all = { ...view };
    const step = bars.find(bar => bar.about.includes("0x40 to 0x60") && !bar.inside);
    step.node.dispatchEvent(new MouseEvent("dblclick", { bubbles: true }));
    const width = Number(step.rect.getAttribute("width"));
    document.getElementById("all").click();
    return { before, whole, zoomed, few, label, moved, again, all, width, end: view.end };
"""


@needs_chromium
def test_the_page_tells_of_a_bar_that_is_pointed_at(tmp_path: Path) -> None:
    text, display, after = evaluate(page(DRAWINGS["demo"]), VISIBLE + HOVER, tmp_path)

    assert text == (
        "Kernel: 0x40 to 0x60\n18.000ms, from 12.000ms to 30.000ms\n59.8 % of the whole"
    )
    assert (display, after) == ("block", "none")


@needs_chromium
def test_the_page_zooms_moves_and_comes_back(tmp_path: Path) -> None:
    found = evaluate(page(DRAWINGS["demo"]), VISIBLE + ZOOM, tmp_path)

    zoomed, moved = found["zoomed"], found["moved"]
    assert zoomed["end"] - zoomed["begin"] < found["whole"] / 10
    assert found["few"] < found["before"]
    assert moved["begin"] < zoomed["begin"]
    assert moved["end"] - moved["begin"] == pytest.approx(zoomed["end"] - zoomed["begin"])
    assert found["again"] == found["before"]
    assert (found["all"]["begin"], found["all"]["end"]) == (0, found["whole"])
    assert found["width"] > 600
    assert found["end"] == found["whole"]


@needs_chromium
def test_the_page_is_readable_however_far_it_is_zoomed(tmp_path: Path) -> None:
    script = (
        VISIBLE
        + "for (let i = 0; i < 9; i++) wheel(700, -1);"
        + OVERLAPS.replace(
            '[...svg.querySelectorAll("text")]',
            '[...svg.querySelectorAll("text")].filter(text => text.getClientRects().length)'
            '.filter(text => !text.closest("[clip-path]"))',
        )
    )

    count, seen = evaluate(page(DRAWINGS["several"]), script, tmp_path)

    assert count > 50
    assert seen == []


@pytest.mark.parametrize("where", [["-o", "drawing.svg"], []])
def test_a_drawing_is_utf_8_in_any_locale(tmp_path: Path, where: list[str]) -> None:
    (tmp_path / "run.json").write_text(json.dumps(document([named("名前", "S")])))
    command = [sys.executable, "-m", "chdebugd.ctl", "plot", "run.json", *where]
    locale = os.environ | {"PYTHONPATH": str(ROOT), "LC_ALL": "en_US.ISO-8859-1"}
    locale |= {"PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}

    done = subprocess.run(command, cwd=tmp_path, env=locale, capture_output=True, check=True)
    time = subprocess.run(
        [*command[:3], "time", "run.json"],
        cwd=tmp_path,
        env=locale,
        capture_output=True,
        check=True,
    )

    assert b"0x40 \\u540d\\u524d" in time.stdout
    data = (tmp_path / "drawing.svg").read_bytes() if where else done.stdout
    assert "0x40 名前" in {text.text for text in ET.fromstring(data).iter(f"{SVG}text")}


def test_the_page_needs_nothing_from_elsewhere() -> None:
    text = page(DRAWINGS["demo"])

    without_namespace = text.replace("http://www.w3.org/2000/svg", "")
    assert "http" not in without_namespace
    assert "src=" not in text
    assert "@import" not in text
