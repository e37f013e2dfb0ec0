"""`bench`: N boots of one definition, the statistics of each step, and a gate for CI."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from chdebugd.ctl.arguments import Verbs, output_of, place_of
from chdebugd.ctl.awaited import DEFAULT, awaited_codes, load_map
from chdebugd.ctl.bench_report import Report
from chdebugd.ctl.bench_runs import Plan, run_all
from chdebugd.ctl.boot import made_up_name
from chdebugd.ctl.boot_options import add_vm_options
from chdebugd.ctl.boots import Boot
from chdebugd.ctl.compare import Comparison, add_tolerance
from chdebugd.ctl.comparison import BUDGET_RUNS_MIN, NO_SCIPY, exceeds, has_scipy
from chdebugd.ctl.errors import CtlError, ExitStatus, UsageError
from chdebugd.ctl.host_facts import host_facts
from chdebugd.ctl.output import duration, write_result
from chdebugd.ctl.samples import Samples, sample
from chdebugd.ctl.saved_runs import load_boots

RUNS, WARMUP, LIMIT = 10, 1, 60.0
FORMATS = ("json", "csv", "md")


def add(verbs: Verbs) -> None:
    """Add it."""
    parser = verbs.add("bench", "boot a VM many times and measure each step", _run)
    parser.add_argument(
        "--runs", metavar="N", type=int, default=RUNS, help="(default: %(default)s)"
    )
    parser.add_argument(
        "--warmup", metavar="N", type=int, default=WARMUP, help="runs before that do not count (1)"
    )
    parser.add_argument("--prepare", metavar="COMMAND", help="run in a shell before each run")
    parser.add_argument(
        "--parallel", metavar="N", type=int, default=1, help="so many VMs at once (default: 1)"
    )
    parser.add_argument(
        "--wait", metavar="CODE", nargs="?", const=DEFAULT, help="a run ends when this mark comes"
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=float,
        default=LIMIT,
        help="what a run may take (default: %(default)g)",
    )
    parser.add_argument("--name", metavar="VM", help="VMs are called VM-1, VM-2, ...")
    parser.add_argument(
        "--export",
        nargs="+",
        action="append",
        default=[],
        metavar=("json|csv|md", "FILE"),
        help="write all figures to FILE, or to stdout; json is a saved run for other verbs",
    )
    parser.add_argument("--baseline", metavar="FILE", help="a saved run that must not be exceeded")
    parser.add_argument(
        "--budget",
        metavar="STEP=MS",
        action="append",
        default=[],
        help="the most that the median of a step may take: total, a stage, or FROM..TO",
    )
    add_tolerance(parser)
    add_vm_options(parser)


def _run(given: argparse.Namespace) -> int:
    plan, budgets = _plan(given), [_budget(text) for text in given.budget]
    _check(given, plan)
    baseline = load_boots(Path(given.baseline)) if given.baseline else []
    boots = _boot_all(plan)
    report = Report(sample(boots), host_facts(plan.place))
    _export(given.export, report)
    output = output_of(given)
    if any(len(each) == 1 for each in given.export):
        return _judge(given, report.samples, baseline, budgets, sys.stderr)
    if output.is_json:
        output.print_json(report.to_json())
        return _judge(given, report.samples, baseline, budgets, sys.stderr)
    with output.paged() as file:
        print(f"{len(boots)} boots of '{plan.name}', milliseconds\n", file=file)
        report.table().print(file)
        for note in report.notes():
            print(note, file=file)
        return _judge(given, report.samples, baseline, budgets, file)


def _plan(given: argparse.Namespace) -> Plan:
    codes = load_map(given.map)
    return Plan(
        given=given,
        place=place_of(given),
        name=given.name or made_up_name(given.kernel or given.firmware or "demo"),
        runs=given.runs,
        warmup=given.warmup,
        parallel=given.parallel,
        prepare=given.prepare,
        awaited=awaited_codes(given.wait, codes) if given.wait else frozenset(),
        limit=given.timeout,
    )


def _check(given: argparse.Namespace, plan: Plan) -> None:
    """Refuse at once what would fail after all the runs."""
    if plan.runs < 1 or plan.warmup < 0 or plan.parallel < 1 or plan.limit <= 0:
        raise UsageError("--runs, --parallel and --timeout must be above 0, --warmup not below")
    if "tty" in (given.serial, given.debug_console, given.firmware_debug):
        raise UsageError("A run of bench has no terminal; give file=PATH or pty instead of tty")
    for kind, *files in given.export:
        if kind not in FORMATS or len(files) > 1:
            raise UsageError(
                f"--export takes {', '.join(FORMATS)} and one FILE, or none for stdout"
            )
    if (given.baseline or given.budget) and not has_scipy():
        raise CtlError(NO_SCIPY)
    if given.budget and plan.runs < BUDGET_RUNS_MIN:
        raise UsageError(f"--budget needs --runs {BUDGET_RUNS_MIN} or more to tell chance apart")


def _budget(text: str) -> tuple[str, float]:
    """STEP and nanoseconds."""
    step, equals, limit = text.rpartition("=")
    try:
        milliseconds = float(limit)
    except ValueError:
        milliseconds = -1
    if not equals or milliseconds <= 0:
        raise UsageError(f"--budget '{text}' is not STEP=MS; give for example total=125")
    return step, milliseconds * 1e6


def _boot_all(plan: Plan) -> list[Boot]:
    with _progress(plan.warmup + plan.runs) as done:
        try:
            return asyncio.run(run_all(plan, done))
        except BaseExceptionGroup as group:
            # The first that failed; the others were cancelled because of it.
            raise group.exceptions[0] from None


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """A bar with the time left, on a terminal and where rich is installed."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
    except ImportError:
        yield lambda done: print(f"\r{done} of {total} runs", end="", file=sys.stderr)
        print(file=sys.stderr)
        return
    columns = "Booting", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=total)
        yield lambda done: progress.update(task, completed=done)


def _export(wanted: list[list[str]], report: Report) -> None:
    for kind, *paths in wanted:
        text = {"json": _json_text, "csv": Report.to_csv, "md": Report.to_markdown}[kind](report)
        write_result(text, paths[0] if paths else None)


def _json_text(report: Report) -> str:
    return json.dumps(report.to_json(), indent=1) + "\n"


def _judge(
    given: argparse.Namespace,
    samples: Samples,
    baseline: list[Boot],
    budgets: list[tuple[str, float]],
    file: TextIO,
) -> ExitStatus:
    """Say what is exceeded; the status tells whether anything is."""
    exceeded = [_judge_budget(samples, step, limit, file) for step, limit in budgets]
    if baseline:
        comparison = Comparison(baseline, samples.boots)
        print(f"\nA is the baseline '{given.baseline}', B are these boots\n", file=file)
        comparison.print(file)
        slow = comparison.too_slow(given.tolerance)
        for each in slow:
            print(f"Baseline exceeded: {each.key} is {each.share:+.1%} slower", file=file)
        exceeded.append(bool(slow))
    return ExitStatus.EXCEEDED if any(exceeded) else ExitStatus.OK


def _judge_budget(samples: Samples, step: str, limit: float, file: TextIO) -> bool:
    figures = samples.named(step)
    is_over, chance = exceeds(figures, limit)
    median = statistics.median(figures)
    verdict = "exceeded" if is_over else "kept"
    what = f"median {duration(median)} of at most {duration(limit)}, chance {chance:.4f}"
    print(f"Budget {verdict}: {step}: {what}", file=file)
    return is_over
