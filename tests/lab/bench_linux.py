"""`python -m tests.lab.bench_linux`: Linux on chdebugd beside QEMU, in turns on the same KVM."""

from __future__ import annotations

import itertools
import re
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from tests.lab.guest import IMAGES, Guest
from tests.lab.installed import installed
from tests.lab.outer import LabError, OuterMachine

MIB = 1 << 20
ROUNDS = 3
MEMORY_MIB = 512
KERNELS = ("vmlinuz-cloud", "vmlinux-generic")
INIT_CODE = 0x48
INITRD = f"{IMAGES}/chdebug-mark.cpio"
TO_INIT = "quiet rdinit=/chdebug-init panic=0"  # it panics after the mark, and then stays
ROOT_CMDLINE = "root=/dev/vda1 ro quiet panic=-1"
READ_BYTES = 8 * MIB
BLOCK = 4096
DEPTHS = (1, 32)
PASSES = 3
READ_JOB = "\n".join(
    f"echo read {depth}: $(readq /dev/vda {depth} {BLOCK} {READ_BYTES})"
    for depth in DEPTHS * PASSES
)
TAP = "bench0"
TIMEOUT = 300  # seconds; an idle host needs ten
ATTEMPTS = 3

T = TypeVar("T")
Figures = dict[str, list[float]]
run = itertools.count(1)  # a name's second VM would find the first one's marks in the journal


def to_init(outer: OuterMachine, kernel: str) -> float:
    """Seconds from vCPU 0's first KVM_RUN to the mark of the kernel's init."""
    vm = Guest(outer, f"to-init{next(run)}")
    vm.start(kernel=f"{IMAGES}/{kernel}", initrd=INITRD, cmdline=TO_INIT, memory=MEMORY_MIB * MIB)
    try:
        vm.wait_mark(INIT_CODE, TIMEOUT)
        return vm.marks()[0].elapsed_nsec / 1e9 - vm.phase("first-entry")
    finally:
        vm.remove()


def qemu_to_init(outer: OuterMachine, kernel: str) -> float:
    """The same for QEMU's microvm: seconds from its `cont`."""
    program = "/usr/local/lib/lab/qemu_to_init.py"
    return float(outer.run(f"{program} {IMAGES}/{kernel} {INITRD} {INIT_CODE:#x}", timeout=TIMEOUT))


def read(outer: OuterMachine) -> tuple[dict[int, float], float]:
    """MB/s by depth, and the MiB that the VM's process with all devices has beside the guest's."""
    vm = Guest(outer, f"read{next(run)}")
    vm.boot(
        f"{IMAGES}/vmlinuz-cloud",
        f"{IMAGES}/initrd-cloud",
        f"--cmdline={ROOT_CMDLINE}",
        f"--memory=size={MEMORY_MIB}M",
        "--serial=journal",
        "--rng",
        "--disk",
        f"path={IMAGES}/disk.img",
        f"path={vm.put_job(READ_JOB)['path']},readonly=on,id=job",
        "--net",
        f"tap={TAP}",
    )
    try:
        vm.wait_text("job ended with", TIMEOUT)
        return speeds_of(vm.text()), vm.process_memory() / MIB
    finally:
        vm.remove()


def qemu_read(outer: OuterMachine) -> dict[int, float]:
    """MB/s by depth of QEMU's virtio-blk on the same image."""
    job = Guest(outer, "qemu").put_job(READ_JOB)
    words = ["exec qemu-system-x86_64 -M q35 -accel kvm -cpu host -nodefaults -display none"]
    words += [f"-m {MEMORY_MIB} -serial stdio -no-reboot"]
    words += [f"-kernel {IMAGES}/vmlinuz-cloud -initrd {IMAGES}/initrd-cloud"]
    words += [f"-append '{ROOT_CMDLINE}'"]
    words += [
        f"-drive file={each},format=raw,if=virtio" for each in (f"{IMAGES}/disk.img", job["path"])
    ]
    done = outer.follow(" ".join(words), "job ended with", TIMEOUT)
    if done.code != 0:
        raise LabError(f"QEMU's guest never ended its job; it said:\n{done.output}")
    return speeds_of(done.output.splitlines())


def speeds_of(lines: list[str]) -> dict[int, float]:
    """Of each depth the best pass: what disturbs one makes it slower only."""
    speeds: dict[int, float] = dict.fromkeys(DEPTHS, 0)
    for line in lines:
        if found := re.search(r"read (\d+): (\d+)", line):
            depth = int(found[1])
            speeds[depth] = max(speeds[depth], int(found[2]) / 1e6)
    return speeds


def persistent(boot: Callable[[], T]) -> T:
    """What a boot measures, tried anew where it hung or died, as happens to both in emulation."""
    for _ in range(ATTEMPTS - 1):
        try:
            return boot()
        except LabError as error:
            print(f"A boot failed and is tried again: {error}", flush=True)
    return boot()


def run_round(outer: OuterMachine, mine: Figures, peer: Figures) -> None:
    """Each figure once, chdebugd's and QEMU's right after it."""
    for kernel in KERNELS:
        mine[f"to init, {kernel}, s"].append(persistent(partial(to_init, outer, kernel)))
        peer[f"to init, {kernel}, s"].append(persistent(partial(qemu_to_init, outer, kernel)))
    speeds, memory = persistent(partial(read, outer))
    for depth, speed in speeds.items():
        mine[f"read, depth {depth}, MB/s"].append(speed)
    for depth, speed in persistent(partial(qemu_read, outer)).items():
        peer[f"read, depth {depth}, MB/s"].append(speed)
    mine["process, MiB"].append(memory)


def row(name: str, mine: list[float], peer: list[float]) -> str:
    """Medians, their ratio, and all figures behind them."""
    text = f"{name:<30}{statistics.median(mine):8.2f}"
    if peer:
        text += f"{statistics.median(peer):8.2f}"
        text += f"{statistics.median(mine) / statistics.median(peer):8.2f}"
    return text + "   " + " | ".join(" ".join(f"{x:.2f}" for x in each) for each in (mine, peer))


def main() -> None:
    """A table after each round; the last one counts."""
    mine: Figures = defaultdict(list)
    peer: Figures = defaultdict(list)
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as place, installed(Path(place)) as outer:
        outer.run(f"ip tuntap add dev {TAP} mode tap && ip link set {TAP} up")
        for at in range(ROUNDS):
            run_round(outer, mine, peer)
            print(
                f"\nround {at + 1} of {ROUNDS}, after {time.monotonic() - start:.0f} s", flush=True
            )
            print(f"{'':<30}chdebugd    QEMU   ratio   each round, chdebugd | QEMU", flush=True)
            for name, figures in mine.items():
                print(row(name, figures, peer[name]), flush=True)


if __name__ == "__main__":
    main()
