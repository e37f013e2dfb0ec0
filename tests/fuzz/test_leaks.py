"""A thousand starts and stops leave no descriptor, thread, process or memory behind."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from pathlib import Path

import pytest

from chdebugd.dbus_library import Variant
from chdebugd.trace.ring import Ring
from chdebugd.vmm.kvm import Kvm
from chdebugd.vmm.machine import Wakers
from tests.dbus.conftest import MANAGER, VM, Client, Daemon, file_with, story, vm_pids
from tests.fuzz.conftest import FACTOR
from tests.guests import FOREVER, SHUTDOWN, mark, rom
from tests.kvm.conftest import image_of, machine_of

pytestmark = [pytest.mark.kvm, pytest.mark.dbus, pytest.mark.fuzz]

STARTS = 1000 * FACTOR
AT_ONCE = 4
WARM_UP = 100  # starts until caches are full
GROWTH_MAX = 4096  # KiB; a leak of 5 KiB a start would show
MACHINES = 300 * FACTOR


def resident(pid: int | str = "self") -> int:
    """KiB of memory."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


def open_files(pid: int | str = "self") -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def n_threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


async def start_and_end(client: Client, name: str, image: Variant) -> None:
    """Half of the guests end by themselves, half are killed."""
    path = await client.start_vm(name, firmware=image)
    if name.endswith("1"):
        await client.wait_state(path, "stopped")
    await client.call(path, VM, "Remove")
    client.signals.clear()


@story
async def test_a_thousand_vms_leave_nothing_in_the_daemon(daemon: Daemon, client: Client) -> None:
    assert daemon.process is not None
    pid, directory = daemon.process.pid, daemon.runtime_dir.parent
    ends = file_with(directory, rom(mark(1, 2) + SHUTDOWN), "ends")
    runs = file_with(directory, rom(mark(1, 2) + FOREVER), "runs")
    images = [Variant("s", str(runs)), Variant("s", str(ends))]

    async def some(count: int) -> None:
        for turn in range(count // AT_ONCE):
            names = [f"vm{turn}-{at}" for at in range(AT_ONCE)]
            await asyncio.gather(
                *(start_and_end(client, name, images[int(name[-1]) % 2]) for name in names)
            )

    await some(WARM_UP)
    files, threads, memory = open_files(pid), n_threads(pid), resident(pid)
    await some(STARTS - WARM_UP)

    await client.wait_for(lambda: not vm_pids(daemon.runtime_dir))
    assert await client.call(*MANAGER, "ListVMs") == []
    assert open_files(pid) <= files
    assert n_threads(pid) <= threads
    assert resident(pid) < memory + GROWTH_MAX
    assert os.listdir(daemon.runtime_dir / "vm") == []


def test_hundreds_of_boots_leave_nothing_in_a_vm_process(
    kvm: Kvm, ring: Ring, wakers: Wakers
) -> None:
    image = image_of(rom(mark(1) + SHUTDOWN))

    def some(count: int) -> None:
        for _ in range(count):
            machine, ended = machine_of(kvm, ring, wakers, image, [], rng=True, cpus=2)
            machine.start()
            assert ended.wait(60)
            machine.close()

    some(WARM_UP)
    gc.collect()
    files, threads, memory = open_files(), threading.active_count(), resident()
    some(MACHINES - WARM_UP)
    gc.collect()

    assert open_files() == files
    assert threading.active_count() == threads
    assert resident() < memory + GROWTH_MAX
    os.close(image.fd)
