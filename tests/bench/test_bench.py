"""The bench tool runs and writes what it measured. What it measured is no matter here."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench import __main__ as bench
from tests.bench import patience
from tests.bench.peer import Subscriber, bare_loop, rom_file
from tests.bench.report import Figure, compare, measure, percentile, table_head, table_line
from tests.bench.stage import Stage
from tests.guests import FOREVER, rom

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


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "SECONDS", 0.05)


@pytest.mark.usefixtures("_impatient")
def test_a_vm_that_does_not_end_is_named(tmp_path: Path) -> None:
    socket = tmp_path / "run/vm/vm7/sock"
    socket.parent.mkdir(parents=True)
    socket.touch()
    playing = Stage("", tmp_path, None, None)  # type: ignore[arg-type]

    with pytest.raises(TimeoutError, match="The end of VM 'vm7' did not come within 0.05 s"):
        asyncio.run(playing.wait_ended("/org/chdebugd1/vm/vm7"))


@pytest.mark.kvm
@pytest.mark.usefixtures("_impatient")
def test_a_peers_guest_that_does_not_end_is_named() -> None:
    with pytest.raises(TimeoutError, match="The end of the bare loop's guest did not come"):
        bare_loop(rom_file(rom(FOREVER), "forever"), 1)


@pytest.mark.usefixtures("_impatient")
def test_signals_that_do_not_come_are_named() -> None:
    with subprocess.Popen(["sleep", "infinity"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        with pytest.raises(TimeoutError, match="The subscriber's word .* did not come"):
            patience.await_output(process.stdout, "The subscriber's word that it listens")
        with pytest.raises(TimeoutError, match="The last signal to the subscriber did not come"):
            Subscriber(process).notes()
        process.kill()


def test_a_row_that_gives_up_leaves_the_others_and_a_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def stuck(repeat: int) -> list[Figure]:
        raise patience.gave_up("The end of VM 'vm7'")

    async def quick(repeat: int) -> list[Figure]:
        return [measure("quick", "what", [repeat], "ms")]

    monkeypatch.setattr(bench, "ROWS", {"stuck": (stuck, 1), "quick": (quick, 3)})
    monkeypatch.setattr(sys, "argv", ["bench", "--json", str(tmp_path / "bench.json")])

    assert bench.main() == 1

    assert capsys.readouterr().err.startswith("stuck: The end of VM 'vm7' did not come")
    written = json.loads((tmp_path / "bench.json").read_text())
    assert [figure["row"] for figure in written["figures"]] == ["quick"]
