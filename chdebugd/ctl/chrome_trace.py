"""Boots as a Chrome trace (Trace Event Format, JSON object form), which Perfetto opens.

Times are CLOCK_MONOTONIC of the host, so that traces of the host (perf record -k mono, ftrace with
trace_clock mono) line up. A boot is a process; its stages, steps and spans are threads with slices
that never overlap, and the marks of each vCPU are instants.
"""

from __future__ import annotations

from typing import Any

from chdebugd.ctl.boots import Boot
from chdebugd.ctl.plot_rows import Row, span_rows, stage_rows
from chdebugd.ctl.steps import points_of, steps_of

CLOCK = "CLOCK_MONOTONIC"
STAGES, STEPS, MARKS, SPANS = 1, 2, 10, 1000
"""Thread numbers; marks and spans have one for each vCPU and each span."""

Event = dict[str, Any]


def chrome_trace(boots: list[Boot]) -> dict[str, Any]:
    """The whole document."""
    events = [event for pid, boot in enumerate(boots, 1) for event in _boot(boot, pid)]
    about = {"clock": CLOCK, "boots": [boot.boot_id for boot in boots]}
    return {"displayTimeUnit": "ns", "otherData": about, "traceEvents": events}


def _boot(boot: Boot, pid: int) -> list[Event]:
    points = points_of(boot)
    steps = [
        Row(step.key, step.stage, step.begin.nsec, step.end.nsec, step.end.label)
        for step in steps_of(points)
    ]
    spans = span_rows(boot, points)
    events = [_name("process_name", pid, 0, f"VM {boot.vm}")]
    threads = {STAGES: "stages", STEPS: "steps"}
    threads |= {SPANS + at: f"span {row.label}" for at, row in enumerate(spans)}
    threads |= {MARKS + vcpu: f"marks of vCPU {vcpu}" for vcpu in {m.vcpu for m in boot.marks}}
    events += [_name("thread_name", pid, tid, name) for tid, name in sorted(threads.items())]
    events += [_slice(boot, pid, STAGES, row) for row in stage_rows(points)]
    events += [_slice(boot, pid, STEPS, row) for row in steps]
    events += [_slice(boot, pid, SPANS + at, row) for at, row in enumerate(spans)]
    return events + _marks(boot, pid)


def _marks(boot: Boot, pid: int) -> list[Event]:
    return [
        {
            "ph": "i",
            "s": "t",
            "name": mark.label,
            "cat": mark.stage,
            "ts": _microseconds(boot, mark.elapsed_nsec),
            "pid": pid,
            "tid": MARKS + mark.vcpu,
            "args": {"code": mark.code, "seq": mark.seq, "elapsed_nsec": mark.elapsed_nsec},
        }
        for mark in boot.marks
    ]


def _name(kind: str, pid: int, tid: int, name: str) -> Event:
    return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "args": {"name": name}}


def _slice(boot: Boot, pid: int, tid: int, row: Row) -> Event:
    return {
        "ph": "X",
        "name": row.label,
        "cat": row.stage,
        "ts": _microseconds(boot, row.begin),
        "dur": row.nsec / 1000,
        "pid": pid,
        "tid": tid,
        "args": {"boot": boot.boot_id},
    }


def _microseconds(boot: Boot, elapsed_nsec: int) -> float:
    return (boot.start_nsec + elapsed_nsec) / 1000
