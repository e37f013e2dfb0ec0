"""`boot`: starts a VM and shows its marks live until it stops, a code comes, or time is up."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import re
import secrets
from pathlib import Path

from chdebugd.ctl.arguments import Verbs, output_of, place_of
from chdebugd.ctl.awaited import DEFAULT, awaited_codes, load_map
from chdebugd.ctl.boot_options import StartOptions, add_vm_options
from chdebugd.ctl.boot_watch import BootWatch, End
from chdebugd.ctl.bus_client import MANAGER, BusClient, connected
from chdebugd.ctl.console import attach, open_terminal
from chdebugd.ctl.ended_boot import wait_for_end
from chdebugd.ctl.errors import CtlError, ExitStatus, UsageError
from chdebugd.ctl.mark_printer import MarkPrinter
from chdebugd.ctl.place import Place
from chdebugd.object_path import MANAGER_PATH

SETTLE_FIRST, SETTLE_WHOLE = 0.2, 5.0  # seconds
DESCRIPTION = """
Without an image the demo guest boots. A VM whose guest has stopped is removed; its marks stay in
the journal. Ctrl-C presses the guest's power button, and Ctrl-C again switches the VM off. When
the awaited code comes the VM runs on; when the timeout passes it is killed and removed. --keep
leaves the VM alone in all these cases.
"""


def add(verbs: Verbs) -> None:
    """Add it."""
    parser = verbs.add("boot", "start a VM and show its marks live", _run)
    parser.description = f"{parser.description}{DESCRIPTION}"
    parser.add_argument("--name", metavar="VM", help="default: the image's name and some digits")
    parser.add_argument(
        "--wait",
        metavar="CODE",
        nargs="?",
        const=DEFAULT,
        help=f"end when this code, mark's name or component comes (without CODE: {DEFAULT})",
    )
    parser.add_argument(
        "--timeout", metavar="SECONDS", type=float, help="end with an error after this time"
    )
    parser.add_argument(
        "--keep", action="store_true", help="leave the VM as it is when chdebugctl ends"
    )
    parser.add_argument(
        "--detach", action="store_true", help="end once the guest runs, and leave it running"
    )
    add_vm_options(parser)


def _run(given: argparse.Namespace) -> int:
    if given.timeout is not None and given.timeout <= 0:
        raise UsageError("--timeout must be above 0 seconds")
    codes = load_map(given.map)
    awaited = awaited_codes(given.wait, codes) if given.wait else frozenset()
    return asyncio.run(_boot(given, awaited))


async def _boot(given: argparse.Namespace, awaited: frozenset[int]) -> int:
    place = place_of(given)
    name = given.name or made_up_name(given.kernel or given.firmware or "demo")
    async with connected(place) as client:
        await client.listen()
        with StartOptions(given, place) as start:
            arguments = name, start.options
            [path] = await client.call(
                MANAGER_PATH, MANAGER, "StartVM", "sa{sv}", *arguments, fds=start.fds
            )
        if given.detach:
            print(name)
            return ExitStatus.OK
        printer = MarkPrinter(output_of(given), to_stderr=start.attached is not None)
        watch = BootWatch(client, path, name, awaited, printer, verbose=bool(given.verbose))
        try:
            with watch.signals_stop():
                end = await _watch(client, watch, start.attached, given.timeout)
        except CtlError:
            if not given.keep:
                await client.control(path, "Remove")
            raise
        boot_id = (await client.vm_properties(path))["BootID"]
        if not given.keep and end != End.AWAITED:
            await client.control(path, "Remove")
    if end in (End.STOPPED, End.FAILED):
        _settle(place, boot_id)
    return _finish(end, watch, given)


def _settle(place: Place, boot_id: str) -> None:
    """Let the journal take all of the boot, so that the next verb finds it whole."""
    with contextlib.suppress(CtlError):  # the marks were shown; nobody asked for the journal
        wait_for_end(place, boot_id, first=SETTLE_FIRST, whole=SETTLE_WHOLE)


async def _watch(client: BusClient, watch: BootWatch, port: str | None, limit: float | None) -> End:
    """Watch the guest, with one of its ports on this terminal."""
    console = None
    if port:
        terminal = open_terminal((await client.vm_properties(watch.path))["Terminals"][port])
        console = asyncio.create_task(attach(terminal))
        console.add_done_callback(lambda task: _stop_if_detached(task, watch))
        await asyncio.sleep(0)  # it is attached before the first mark is shown
    try:
        async with asyncio.timeout(limit):
            return await watch.run()
    except TimeoutError:
        return End.DEADLINE
    finally:
        if console:
            console.cancel()
            await asyncio.gather(console, return_exceptions=True)


def _stop_if_detached(console: asyncio.Task[bool], watch: BootWatch) -> None:
    """^] takes the place of Ctrl-C, which goes to the guest."""
    if not console.cancelled() and console.result():
        watch.stop()


def _finish(end: End, watch: BootWatch, given: argparse.Namespace) -> ExitStatus:
    """Say how it ended."""
    printer, about = watch.printer, f"VM '{watch.name}'"
    if end == End.DEADLINE:
        left = "it runs on" if given.keep else "it was killed"
        missing = f"; {given.wait} did not come" if given.wait else ""
        raise CtlError(
            f"{about} is stuck {watch.where} after {given.timeout:g} s{missing}; {left}: "
            f"chdebugctl time {watch.name}",
            ExitStatus.STUCK,
        )
    if end == End.AWAITED:
        printer.note(f"{given.wait} has come; {about} runs on: chdebugctl stop {watch.name}")
        return ExitStatus.OK
    if watch.is_interrupted:
        printer.note(f"{about} was stopped by Ctrl-C ({watch.result}), {watch.where}")
        return ExitStatus.INTERRUPTED
    if end == End.FAILED or given.wait:
        early = f" before {given.wait} came" if given.wait else ""
        raise CtlError(
            f"{about} ended{early} ({watch.result}), {watch.where}; see chdebugctl events "
            f"{watch.name}",
            ExitStatus.GUEST_FAILED,
        )
    printer.note(
        f"{about} stopped ({watch.result}) after {watch.count} marks: chdebugctl time {watch.name}"
    )
    return ExitStatus.OK


def made_up_name(image: str) -> str:
    """A VM's name that is most likely free: the image's and four digits."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(image).stem).strip("-")[:48] or "vm"
    return f"{stem}-{secrets.token_hex(2)}"
