"""`python -m tests.lab.bench_linux`: Linux on chdebugd beside QEMU, on the same KVM in one run."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.lab.guest import IMAGES, Guest
from tests.lab.installed import installed
from tests.lab.outer import OuterMachine

MIB = 1 << 20
REPEAT = 5
INIT_CODE = 0x48
TO_INIT = "quiet rdinit=/chdebug-init panic=-1"
ROOT_CMDLINE = "root=/dev/vda1 ro quiet panic=-1"
READ_BYTES = 64 * MIB
READ = "; ".join(f"echo depth {n}: $(readq /dev/vda {n} 4096 {READ_BYTES})" for n in (1, 32))
READ_JOB = f"{READ}; {READ}; {READ}; systemctl --no-block poweroff"


def to_init(outer: OuterMachine, kernel: str, run: int) -> float:
    """Seconds from vCPU 0's first KVM_RUN to the mark of the kernel's init."""
    vm = Guest(outer, f"init{run}-{kernel}")
    images = {"kernel": f"{IMAGES}/{kernel}", "initrd": f"{IMAGES}/chdebug-mark.cpio"}
    vm.start(**images, cmdline=TO_INIT, memory=512 * MIB)
    vm.wait_mark(INIT_CODE)
    elapsed = vm.marks()[0].elapsed_nsec / 1e9 - vm.phase("first-entry")
    vm.remove()
    return elapsed


def qemu_to_init(outer: OuterMachine, kernel: str, _: int) -> float:
    """The same for QEMU's microvm: seconds from its `cont`."""
    program = "/usr/local/lib/lab/qemu_to_init.py"
    images = f"{IMAGES}/{kernel} {IMAGES}/chdebug-mark.cpio"
    return float(outer.run(f"{program} {images} {INIT_CODE:#x}", timeout=300))


def read_speed(outer: OuterMachine, name: str) -> dict[str, float]:
    """Bytes a second by depth, and the memory of the VM's process beside the guest's."""
    vm = Guest(outer, name)
    disks = [{"path": f"{IMAGES}/disk.img"}, vm.put_job(READ_JOB)]
    images = {"kernel": f"{IMAGES}/vmlinuz-cloud", "initrd": f"{IMAGES}/initrd-cloud"}
    vm.start(
        **images, cmdline=ROOT_CMDLINE, memory=512 * MIB, rng=True, serial="journal", disks=disks
    )
    vm.wait_text("depth 1:")
    memory = vm.process_memory()
    vm.wait_state("stopped")
    speeds = speeds_of(vm.text())
    vm.remove()
    return speeds | {"MiB": memory / MIB}


def qemu_read_speed(outer: OuterMachine) -> dict[str, float]:
    """The same for QEMU's virtio-blk on the same image."""
    job = Guest(outer, "qemu").put_job(READ_JOB)
    words = ["qemu-system-x86_64 -M q35 -accel kvm -cpu host -m 512 -nodefaults -display none"]
    words += [f"-kernel {IMAGES}/vmlinuz-cloud -initrd {IMAGES}/initrd-cloud"]
    words += [f"-append '{ROOT_CMDLINE}' -serial stdio -no-reboot"]
    words += [
        f"-drive file={each},format=raw,if=virtio" for each in (f"{IMAGES}/disk.img", job["path"])
    ]
    return speeds_of(outer.run(" ".join(words), timeout=300).splitlines())


def speeds_of(lines: list[str]) -> dict[str, float]:
    """The best of each depth."""
    speeds: dict[str, float] = {}
    for line in lines:
        if line.startswith("depth "):
            depth, speed = line.split(":")
            speeds[depth] = max(speeds.get(depth, 0), float(speed) / 1e6)
    return speeds


def repeated(measure: Callable[[int], float]) -> str:
    """Median and range of some runs."""
    values = [measure(run) for run in range(REPEAT)]
    return f"{statistics.median(values):.2f} s ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    """Print a line a figure."""
    with tempfile.TemporaryDirectory() as place:
        start = time.monotonic()
        with installed(Path(place)) as outer:
            print(f"outer boot and installation: {time.monotonic() - start:.0f} s", flush=True)
            for kernel in ("vmlinuz-cloud", "vmlinux-generic"):
                mine = repeated(partial(to_init, outer, kernel))
                print(f"first KVM_RUN to init, {kernel}: chdebugd {mine}", flush=True)
                peer = repeated(partial(qemu_to_init, outer, kernel))
                print(f"first KVM_RUN to init, {kernel}: QEMU microvm {peer}", flush=True)
            print(f"MB/s, chdebugd: {read_speed(outer, 'read')}", flush=True)
            print(f"MB/s, QEMU:     {qemu_read_speed(outer)}", flush=True)


if __name__ == "__main__":
    main()
