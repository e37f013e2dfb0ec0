"""The runs of `bench`: one definition boots again and again; the journal tells of each."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

from chdebugd.ctl.boot_finder import read_boot
from chdebugd.ctl.boot_options import StartOptions
from chdebugd.ctl.boot_watch import BootWatch, End
from chdebugd.ctl.boots import Boot
from chdebugd.ctl.bus_client import MANAGER, BusClient, connected
from chdebugd.ctl.ended_boot import wait_for_end
from chdebugd.ctl.errors import CtlError, ExitStatus
from chdebugd.ctl.journal import NO_ACCESS
from chdebugd.ctl.mark_printer import MarkPrinter
from chdebugd.ctl.output import Output
from chdebugd.ctl.place import Place
from chdebugd.object_path import MANAGER_PATH

JOURNAL_LIMIT = 15.0  # seconds until the journal must have all of a boot that is over


@dataclass(frozen=True)
class Plan:
    """What to run."""

    given: argparse.Namespace
    """The VM, as the flags of boot describe it."""
    place: Place
    name: str
    """The VMs are called NAME-1, NAME-2, ..."""
    runs: int
    warmup: int
    parallel: int
    prepare: str | None
    """A shell command before each run, or before each round where several run at once."""
    awaited: frozenset[int]
    """Codes that end a run; none: the guest ends it."""
    limit: float
    """Seconds that one run may take."""


async def run_all(plan: Plan, done: Callable[[int], None]) -> list[Boot]:
    """The boots of all runs but the warm-up, in order; raises CtlError at the first that fails.

    `done` is told how many runs are over, those of the warm-up among them.
    """
    boots: list[Boot] = []
    total = plan.warmup + plan.runs
    while len(boots) < total:
        await _prepare(plan.prepare)
        count = min(plan.parallel, total - len(boots))
        numbers = range(len(boots) + 1, len(boots) + count + 1)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_run(plan, number)) for number in numbers]
        boots += [task.result() for task in tasks]
        done(len(boots))
    return boots[plan.warmup :]


async def _prepare(command: str | None) -> None:
    if command is None:
        return
    process = await asyncio.create_subprocess_shell(command)
    status = await process.wait()
    if status:
        raise CtlError(f"--prepare '{command}' ended with status {status}; mend it")


async def _run(plan: Plan, number: int) -> Boot:
    """One boot from start to removal, and what the journal has of it."""
    name = f"{plan.name}-{number}"
    async with connected(plan.place) as client:
        await client.listen()
        with StartOptions(plan.given, plan.place) as start:
            arguments = name, start.options
            [path] = await client.call(
                MANAGER_PATH, MANAGER, "StartVM", "sa{sv}", *arguments, fds=start.fds
            )
        try:
            boot_id = (await client.vm_properties(path))["BootID"]
            watch = await _watch(plan, client, path, name)
        finally:
            await client.control(path, "Remove")
    boot = await asyncio.to_thread(_read_whole, plan.place, boot_id)
    return _until(boot, plan.awaited) if watch else boot


async def _watch(plan: Plan, client: BusClient, path: str, name: str) -> bool:
    """Until the run is over; True where an awaited code ended it. Raises CtlError."""
    watch = BootWatch(client, path, name, plan.awaited, MarkPrinter(Output(), silent=True))
    try:
        async with asyncio.timeout(plan.limit):
            end = await watch.run()
    except TimeoutError:
        raise CtlError(
            f"Run '{name}' is stuck {watch.where} after {plan.limit:g} s; see chdebugctl events "
            f"{name}",
            ExitStatus.STUCK,
        ) from None
    if end == End.FAILED or (plan.awaited and end != End.AWAITED):
        raise CtlError(
            f"Run '{name}' ended too early ({watch.result}), {watch.where}; see chdebugctl events "
            f"{name}",
            ExitStatus.GUEST_FAILED,
        )
    return end == End.AWAITED


def _read_whole(place: Place, boot_id: str) -> Boot:
    """The boot, once the journal has its end and all its marks; raises CtlError."""
    if not wait_for_end(place, boot_id, first=JOURNAL_LIMIT, whole=JOURNAL_LIMIT):
        raise CtlError(f"The journal does not have all of boot {boot_id}; {NO_ACCESS}")
    return read_boot(place, boot_id)


def _until(boot: Boot, awaited: frozenset[int]) -> Boot:
    """The boot up to the mark that ended the run: what came after it is left to chance."""
    end = next(at for at, mark in enumerate(boot.marks) if mark.code in awaited)
    return replace(boot, marks=boot.marks[: end + 1])
