"""list, status, start, stop, kill, pause, resume, reset, remove: as machinectl has them."""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

from chdebugd.ctl.arguments import Verbs, output_of, place_of
from chdebugd.ctl.bus_client import BusClient, connected
from chdebugd.ctl.errors import UsageError
from chdebugd.ctl.output import Table, milliseconds
from chdebugd.object_path import vm_name

STOP_TIMEOUT = 10.0  # seconds a guest has to obey its power button
LAST_MARKS = 10  # so many of them status shows


def add(verbs: Verbs) -> None:
    """Add all of them."""
    verbs.add("list", "list all VMs and their states", _list)
    status = verbs.add("status", "show one VM or several, with their last marks", _status)
    status.add_argument("vm", metavar="VM", nargs="+")
    stop = _add_control(verbs, "stop", "press the power button, and switch off after a timeout")
    stop.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=float,
        default=STOP_TIMEOUT,
        help="how long the guest has to obey (default: %(default)g)",
    )
    for verb, summary in CONTROLS.items():
        _add_control(verbs, verb, summary)


CONTROLS = {
    "start": "boot a VM again that has ended",
    "kill": "switch off at once",
    "pause": "stop the guest between two instructions",
    "resume": "let a paused guest go on",
    "reset": "press the reset button: another boot begins",
    "remove": "kill a VM where it runs, and forget it; its journal entries stay",
}


def _add_control(verbs: Verbs, verb: str, summary: str) -> argparse.ArgumentParser:
    parser = verbs.add(verb, summary, _control)
    parser.add_argument("vm", metavar="VM", nargs="+")
    parser.set_defaults(verb=verb)
    return parser


def _control(given: argparse.Namespace) -> int:
    arguments: tuple[Any, ...] = ()
    if given.verb == "stop":
        if given.timeout < 0:
            raise UsageError("--timeout must not be below 0; 0 switches off at once")
        arguments = ("t", int(given.timeout * 1e6))

    async def work() -> None:
        async with connected(place_of(given)) as client:
            for name in given.vm:
                await client.control(await client.find(name), given.verb.capitalize(), *arguments)

    asyncio.run(work())
    return 0


def _list(given: argparse.Namespace) -> int:
    async def work() -> dict[str, dict[str, Any]]:
        async with connected(place_of(given)) as client:
            return await client.all_vms()

    vms = asyncio.run(work())
    output = output_of(given)
    if output.is_json:
        output.print_json(list(vms.values()))
        return 0
    table = Table(
        ["VM", "STATE", "BOOTS", "MARKS", "LAST", "BOOT ID"], frozenset({"BOOTS", "MARKS"})
    )
    for path, vm in vms.items():
        name, boots = vm_name(path), vm["BootCount"]
        table.add(name, vm["State"], boots, vm["EventCount"], last_mark(vm), vm["BootID"][:12])
    with output.paged() as file:
        table.print(file)
        print(f"\n{len(vms)} VMs", file=file)
    return 0


def last_mark(vm: dict[str, Any]) -> str:
    """`Kernel 0x40`, of a VM's properties."""
    return f"{vm['LastComponent']} {vm['LastCode']:#x}" if vm["LastComponent"] else "-"


def _status(given: argparse.Namespace) -> int:
    async def work() -> list[dict[str, Any]]:
        async with connected(place_of(given)) as client:
            return [await _look_at(client, name) for name in given.vm]

    found = asyncio.run(work())
    output = output_of(given)
    if output.is_json:
        output.print_json(found)
        return 0
    with output.paged() as file:
        for at, vm in enumerate(found):
            file.write(("\n" if at else "") + _status_text(vm))
            _marks_table(vm["LastMarks"]).print(file)
    return 0


async def _look_at(client: BusClient, name: str) -> dict[str, Any]:
    path = await client.find(name)
    vm = await client.vm_properties(path)
    last = await _last_seq(client, path, vm["EventCount"])
    vm["LastMarks"] = [
        {"seq": seq, "elapsed_nsec": nsec, "code": code, "component": component, **details}
        for seq, nsec, code, component, details in await client.events(
            path, max(0, last - LAST_MARKS), LAST_MARKS
        )
    ]
    return vm


async def _last_seq(client: BusClient, path: str, count: int) -> int:
    """The number of the boot's last mark, 0 where the daemon has none of it any more.

    The count is of all boots of the process, so it is a bound only: halve the distance to it.
    """
    low, high = 0, count
    while low < high:
        middle = (low + high + 1) // 2
        if await client.events(path, middle - 1, 1):
            low = middle
        else:
            high = middle - 1
    return low


def _status_text(vm: dict[str, Any]) -> str:
    state = f"{vm['State']} ({vm['Result']})" if vm["Result"] else vm["State"]
    rows = {
        "State": state,
        "Boot": f"{vm['BootID']} (number {vm['BootCount']})",
        "Started": f"at {vm['StartTimestampMonotonic'] / 1e6:.6f} s on the host's monotonic clock",
        "Marks": f"{vm['EventCount']}, last {last_mark(vm)}",
        "Options": ", ".join(f"{key}={value}" for key, value in vm["Options"].items()) or "none",
        "Terminals": ", ".join(f"{port} {path}" for port, path in vm["Terminals"].items()),
        "Dropped": f"{vm['DroppedEvents']} marks" if vm["DroppedEvents"] else "",
        "Skipped": f"{vm['SkippedSignals']} signals" if vm["SkippedSignals"] else "",
        "Stalled": f"{vm['StalledUSec']} us" if vm["StalledUSec"] else "",
    }
    lines = [f"{label:>10}: {text}\n" for label, text in rows.items() if text]
    return f"{vm['Name']}\n{''.join(lines)}"


def _marks_table(marks: list[dict[str, Any]]) -> Table:
    table = Table(["SEQ", "MS", "COMPONENT", "CODE", "NAME"], frozenset({"SEQ", "MS"}))
    for mark in marks:
        at, code = milliseconds(mark["elapsed_nsec"]), f"{mark['code']:#x}"
        table.add(mark["seq"], at, mark["component"], code, mark.get("name", ""))
    return table
