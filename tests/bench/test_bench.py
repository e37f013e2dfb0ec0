"""The bench tool runs and writes what it measured. What it measured is no matter here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.report import Figure, compare, measure, percentile, table_head, table_line

ROOT = Path(__file__).parents[2]


@pytest.mark.kvm
@pytest.mark.dbus
def test_rows_run_singly_and_are_written_as_json(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.bench", "start-child", "clock", "--repeat", "1"]

    done = subprocess.run(
        [*command, "--json", str(tmp_path / "bench.json")],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )

    written = json.loads((tmp_path / "bench.json").read_text())
    rows = [figure["row"] for figure in written["figures"]]
    assert set(rows) == {"start", "clock"}
    assert len(done.stdout.splitlines()) == 1 + len(rows)
    assert written["host"]["cpus"] > 0


def test_a_ratio_is_the_median_of_pairs() -> None:
    figure = compare("row", "what", [1, 20, 3], [1, 10, 2], "ns", "peer", at_most=1.5)

    assert (figure.ours, figure.theirs, figure.ratio, figure.reached) == (3, 2, 1.5, True)
    assert figure.spread == "1.00..2.00 over 3"


def test_a_target_that_is_missed_is_shown() -> None:
    figure = measure("row", "what", [3, 1, 2], "ms", at_least=2.5)

    assert figure.reached is False
    assert "NO" in table_line(figure)
    assert len(table_head()) > 0


def test_a_figure_without_a_target_is_only_told() -> None:
    assert measure("row", "what", [1], "ms") == Figure("row", "what", 1, "ms", spread="1..1 over 1")


@pytest.mark.parametrize(("percent", "value"), [(0, 1), (50, 51), (99, 100), (100, 100)])
def test_percentiles(percent: float, value: int) -> None:
    assert percentile(list(range(1, 101)), percent) == value
