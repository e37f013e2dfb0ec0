"""`bench`, `compare`, `events`, `time` and `blame` with real boots in a real journal."""

from __future__ import annotations

import csv
import io
import json
import subprocess
from typing import Any

import pytest

from tests.ctl.conftest import Ctl, entries_of, wait_for
from tests.guests import SHUTDOWN, SLEEP, mark, rom

pytestmark = [pytest.mark.kvm, pytest.mark.dbus]

DELAY = (
    b"\x66\xb9\x40\x9c\x00\x00"  # mov $40000, %ecx
    b"\x66\x49"  # 1: dec %ecx
    b"\x75\xfc"  # jnz 1b
)


def guest(ctl: Ctl, code: bytes, name: str = "guest.bin") -> str:
    path = ctl.directory / name
    path.write_bytes(rom(code))
    return str(path)


def load(ctl: Ctl, name: str) -> Any:
    return json.loads((ctl.directory / name).read_text())


def test_bench_keeps_every_boot_and_measures_the_steps(ctl: Ctl) -> None:
    exports = ["--export", "json", "r.json", "--export", "csv", "r.csv", "--export", "md", "r.md"]
    text = ctl.run("bench", "--runs=4", "--warmup=2", "--map=demo", "--name=b", *exports).stdout

    run = load(ctl, "r.json")
    assert [boot["vm"] for boot in run["boots"]] == ["b-3", "b-4", "b-5", "b-6"]
    assert all(len(boot["marks"]) == 10 for boot in run["boots"])
    step = run["steps"]["0x40..0x41"]
    deltas = [
        boot["marks"][5]["elapsed_nsec"] - boot["marks"][4]["elapsed_nsec"] for boot in run["boots"]
    ]
    assert step["samples_nsec"] == deltas
    assert (step["count"], step["min_nsec"], step["max_nsec"]) == (4, min(deltas), max(deltas))
    assert {"cpu", "kernel", "date", "chdebugctl"} <= set(run["host"])
    rows = list(csv.DictReader(io.StringIO((ctl.directory / "r.csv").read_text())))
    assert [int(row["nsec"]) for row in rows if row["step"] == "0x40..0x41"] == deltas
    assert "| 0x40 protected-mode .. 0x41 long-mode |" in (ctl.directory / "r.md").read_text()
    assert "0x40 protected-mode .. 0x41 long-mode" in text
    assert ctl.json("list") == []


def test_a_run_ends_at_the_awaited_mark(ctl: Ctl) -> None:
    firmware = guest(ctl, mark(1, 0x60, 0x61) + SLEEP)

    run = ctl.json("bench", "--runs=2", "--firmware", firmware, "--wait", "--parallel=2")

    assert [[mark["code"] for mark in boot["marks"]] for boot in run["boots"]] == [[1, 0x60]] * 2


def test_an_export_without_a_file_goes_to_stdout(ctl: Ctl) -> None:
    run = json.loads(ctl.run("bench", "--runs=1", "--warmup=0", "--export", "json").stdout)

    assert len(run["boots"]) == 1


def test_what_is_prepared_runs_before_each_run(ctl: Ctl) -> None:
    ctl.run("bench", "--runs=2", "--warmup=1", "--prepare", "echo once >> prepared")

    assert (ctl.directory / "prepared").read_text() == "once\n" * 3


def test_a_baseline_and_a_budget_are_a_gate(ctl: Ctl) -> None:
    fast = guest(ctl, mark(0x40, 0x41) + SHUTDOWN, "fast")
    slow = guest(ctl, mark(0x40) + DELAY + mark(0x41) + SHUTDOWN, "slow")
    bench = ["bench", "--runs=10", "--warmup=0", "--firmware"]
    ctl.run(*bench, fast, "--export", "json", "fast.json", "--budget", "Kernel=20000")

    done = ctl.run(*bench, slow, "--baseline=fast.json", "--export", "json", "slow.json", status=5)

    assert "Baseline exceeded: 0x40..0x41 is" in done.stdout
    done = ctl.run(*bench, slow, "--budget", "0x40..0x41=1", status=5)
    assert "Budget exceeded: 0x40..0x41: median" in done.stdout
    [kernel] = [
        each
        for each in ctl.json("compare", "fast.json", "slow.json")["steps"]
        if each["step"] == "0x40..0x41"
    ]
    assert kernel["verdict"] == "slower"
    assert kernel["interval_nsec"][0] > 0
    assert kernel["chance"] < 0.01
    ctl.run("compare", "--check", "fast.json", "slow.json", status=5)
    # The host may have become slower meanwhile, but not a thousand times.
    ctl.run("compare", "--check", "--tolerance=100000", "slow.json", "fast.json")


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        (["--runs=2", "--wait=0x99"], 3, "ended too early (shutdown), at Custom 0xff"),
        (["--prepare", "exit 7"], 1, "ended with status 7"),
        (["--runs=0"], 2, "--runs, --parallel and --timeout must be above 0"),
        (["--runs=4", "--budget", "total=1"], 2, "--budget needs --runs 5 or more"),
        (["--budget", "total"], 2, "is not STEP=MS"),
        (["--export", "pdf", "x"], 2, "--export takes json, csv, md and one FILE"),
        (["--serial=tty"], 2, "has no terminal"),
        (["--baseline=nix.json"], 1, "Cannot read 'nix.json'"),
    ],
)
def test_what_cannot_be_benched_is_told(
    ctl: Ctl, words: list[str], status: int, sentence: str
) -> None:
    done = ctl.run("bench", *words, status=status)

    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1
    assert ctl.json("list") == []


def test_a_run_that_is_stuck_is_told_and_ended(ctl: Ctl) -> None:
    firmware = guest(ctl, mark(0x42) + SLEEP)

    done = ctl.run("bench", "--name=s", "--firmware", firmware, "--timeout=3", status=4)

    assert "Run 's-1' is stuck at Kernel 0x42 after 3 s" in done.stderr
    assert ctl.json("list") == []


def test_boots_are_found_in_the_journal(ctl: Ctl) -> None:
    for _ in range(2):
        ctl.run("boot", "--name=j", "--map=demo")
    first, second = (ctl.json("time", f"j:{number}")["boot"] for number in (1, 2))

    assert first != second
    assert ctl.json("time", "j")["boot"] == second
    assert ctl.json("time", "j:0")["boot"] == second
    assert ctl.json("time", "j:-1")["boot"] == first
    assert ctl.json("time", first[:20])["boot"] == first
    assert len(ctl.json("events", "j:*")) == 20
    assert "boot 3 is not among them" in ctl.run("time", "j:3", status=1).stderr
    assert "has no boot of 'nix'" in ctl.run("time", "nix", status=1).stderr
    assert "names 2 boots" in ctl.run("time", "j:*", status=2).stderr
    assert "names no boot" in ctl.run("time", "?", status=2).stderr


def test_events_are_a_table_json_or_csv(ctl: Ctl) -> None:
    ctl.run("boot", "--name=e", "--map=demo")

    marks = ctl.json("events", "e")
    rows = list(csv.DictReader(io.StringIO(ctl.run("events", "e", "--csv").stdout)))
    table = ctl.run("events", "e").stdout.splitlines()

    assert [found["seq"] for found in marks] == list(range(1, 11))
    assert [int(row["elapsed_nsec"]) for row in rows] == [found["elapsed_nsec"] for found in marks]
    assert len(table) == 11
    assert table[6].split()[3:6] == ["Kernel", "0x41", "long-mode"]
    kernel = ctl.json("events", "e", "--component=kernel")
    assert [found["code"] for found in kernel] == [0x40, 0x41]
    assert [found["code"] for found in ctl.json("events", "e", "--code=0x60")] == [0x60]


def test_time_tells_of_host_and_guest_on_one_clock(ctl: Ctl) -> None:
    ctl.run("boot", "--name=t", "--map=demo")

    told = ctl.json("time", "t", "--origin=request")

    keys = [point["key"] for point in told["points"]]
    assert keys[:6] == [
        *("request", "start", "kvm-created", "memory-mapped", "image-loaded", "first-entry")
    ]
    assert told["points"][0]["nsec"] == 0
    assert sum(told["stages_nsec"].values()) == told["total_nsec"]
    assert list(told["stages_nsec"])[:2] == ["Host", "Guest"]
    assert told["exit_cost_nsec"] > 0
    text = ctl.run("time", "t").stdout
    assert text.startswith("Boot of 't' took ")
    assert "10 marks cost about" in text
    assert ctl.json("time", "t", "--origin=0x41")["points"][0]["key"] == "0x41"


def test_blame_has_the_longest_step_first(ctl: Ctl) -> None:
    ctl.run("boot", "--name=l")

    steps = ctl.json("blame", "l")

    assert [step["nsec"] for step in steps] == sorted((s["nsec"] for s in steps), reverse=True)
    assert sum(step["nsec"] for step in steps) == ctl.json("time", "l")["total_nsec"]


def test_marks_of_a_reset_belong_to_boots_of_their_own(ctl: Ctl) -> None:
    ctl.run("boot", "--detach", "--name=r", "--firmware", guest(ctl, mark(0x40) + SLEEP))
    ctl.run("reset", "r")
    ctl.run("kill", "r")

    assert ctl.json("time", "r:1", "--origin=request")["points"][0]["key"] == "request"
    done = ctl.run("time", "r:2", "--origin=request", status=2)
    assert "followed a reset: nobody asked for it" in done.stderr


def test_entries_that_another_user_forged_are_not_believed(ctl: Ctl) -> None:
    ctl.run("boot", "--name=g")
    boot = ctl.json("time", "g")["boot"]
    forged = (
        f"SYSLOG_IDENTIFIER=chdebugd\nMESSAGE_ID=a1c7b8d2e0f74b7f9d5f3c6e80de0001\nVM=g\n"
        f"VM_BOOT={boot}\nSEQ=11\nCODE=0x66\nELAPSED_NSEC=1\nMESSAGE=forged\n"
    )
    sender = (
        "import os, socket, sys; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); "
        "s.connect(sys.argv[1]); os.setuid(65534); s.send(sys.argv[2].encode())"
    )
    subprocess.run(
        ["python3", "-c", sender, str(ctl.journald.socket), forged], check=True, timeout=30
    )

    wait_for(lambda: entries_of(ctl, "MESSAGE=forged"))
    assert len(ctl.json("events", "g")) == 10
