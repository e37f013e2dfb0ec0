"""The same Debian by its other ways in: bzImage, PVH, GRUB under SeaBIOS, and PVH firmware."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.docs.fences import commands
from tests.lab.guest import IMAGES, Guest
from tests.lab.installed import CLOUD_DISK, EFI_DISK, FIRMWARE
from tests.lab.outer import OuterMachine

MIB = 1 << 20
KIT = [0x48, 0x4F, 0x61, 0x62, 0x64]
GRUB = [0x20, 0x21, 0x22, 0x23, 0x2F]
# GRUB looks at the A20 gate before its first mark, and delays by writing what lies at 0x108000.
A20_DELAY = 0x00
POWEROFF = "systemctl --no-block poweroff"
REBOOT_ONCE = f"""if mkdir /var/lib/booted; then systemctl --no-block reboot; exit; fi
echo cpus: $(nproc)
{POWEROFF}
"""
SET_GRUB_UP = f"{commands('lab-guest')[0]}; {POWEROFF}"


def boot_generic(vm: Guest, kernel: str, job: str) -> Guest:
    """A guest that booted one of its kernel's two forms, did the job and is off."""
    vm.start(
        kernel=f"{IMAGES}/{kernel}",
        initrd=f"{IMAGES}/initrd-generic",
        cmdline="root=/dev/vda1 ro quiet panic=-1",
        memory=512 * MIB,
        cpus=2,
        disks=[{"path": f"{IMAGES}/disk.img"}, vm.put_job(job)],
    )
    vm.wait_state("stopped")
    return vm


@pytest.fixture(scope="module")
def bzimage(module_guest: Callable[[str], Guest]) -> Guest:
    """It made GRUB's configuration, as the README says."""
    return boot_generic(module_guest("bzimage"), "vmlinuz-generic", SET_GRUB_UP)


def test_bzimage(bzimage: Guest) -> None:
    assert [mark.code for mark in bzimage.marks()] == KIT


def test_pvh(guest: Callable[[str], Guest]) -> None:
    vm = boot_generic(guest("pvh"), "vmlinux-generic", POWEROFF)

    assert [mark.code for mark in vm.marks()] == KIT


@pytest.mark.usefixtures("bzimage")
def test_firmware_loader_kernel_and_userspace(guest: Callable[[str], Guest]) -> None:
    vm = guest("chain")
    vm.start(
        firmware="/usr/share/seabios/bios-256k.bin",
        memory=512 * MIB,
        disks=[{"path": f"{IMAGES}/disk.img"}, vm.put_job(POWEROFF)],
    )
    vm.wait_state("stopped")

    everything = vm.marks()
    marks = [mark for mark in everything if mark.code != A20_DELAY]
    assert [mark.code for mark in marks] == [*GRUB, *KIT]
    assert everything[-len(marks) :] == marks
    assert [m.component for m in marks] == ["Bootloader"] * 5 + ["Kernel"] * 2 + ["Userspace"] * 3
    assert [m.elapsed_nsec for m in marks] == sorted(m.elapsed_nsec for m in marks)


@pytest.mark.hypervisor_fw
def test_rust_hypervisor_firmware(guest: Callable[[str], Guest]) -> None:
    """The first two disks have no EFI partition: the firmware goes on to the third."""
    vm = guest("hypervisor-fw")
    vm.start(
        kernel=f"{IMAGES}/{FIRMWARE}",
        cpus=4,
        memory=1024 * MIB,
        rng=True,
        serial="journal",
        disks=[
            {"path": f"{IMAGES}/disk.img"},
            vm.put_job("echo cpus: $(nproc)\n" + POWEROFF),
            {"path": f"{IMAGES}/{EFI_DISK}", "readonly": True},
        ],
    )
    vm.wait_state("stopped")

    text = vm.text()
    assert any(line.endswith("Jumping to kernel") for line in text)
    assert "cpus: 4" in text
    assert [mark.code for mark in vm.marks()] == KIT


@pytest.mark.hypervisor_fw
def test_cloud_image_by_the_words_of_cloud_hypervisor(
    outer: OuterMachine, guest: Callable[[str], Guest]
) -> None:
    """Firmware, shim if there is one, GRUB, kernel and userspace; then the guest reboots."""
    vm, log = guest("cloud-image"), "/tmp/ch-fw.log"
    vm.boot(
        f"{IMAGES}/{FIRMWARE}",
        None,
        *("--disk", f"path={IMAGES}/{CLOUD_DISK}"),
        f"path={vm.put_job(REBOOT_ONCE)['path']},readonly=on,id=job",
        *("--cpus", "4", "--memory", "size=1024M", "--rng", "--log-file", log, "-vvv"),
        "--serial=journal",
    )
    vm.wait_state("stopped")

    assert "cpus: 4" in vm.text()
    marks = vm.marks()
    assert [mark.code for mark in marks] == 2 * [*GRUB, *KIT]
    assert len({mark.boot for mark in marks}) == 2
    assert [mark.seq for mark in marks] == 2 * list(range(marks[0].seq, marks[0].seq + 10))
    lines = outer.run(f"grep --count 'Debug I/O port' {log}")
    assert int(lines) == len(marks)
