"""The guest kit in a stock Debian: each way to the port, lockdown, the module, units, any initrd.

What GRUB, initramfs-tools and systemd's targets mark is in test_boot_ways and test_stock_linux.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.docs.fences import commands
from tests.lab.guest import IMAGES, Guest
from tests.lab.installed import PACKAGES
from tests.lab.outer import OuterMachine

MIB = 1 << 20
ARCHIVE, INITRAMFS, INITRAMFS_END = 0x48, 0x48, 0x4F
TARGETS = [0x61, 0x62, 0x64]
PROGRAM = [0x80, 0x81, 0x82]
NETWORK_ONLINE, READY, MODULE, PANIC = 0x63, 0x70, 0x42, 0x5F
OWN_UNIT = 0x72
BY_DEVICE, BY_PARAMETER, BY_PROGRAM, NEVER = 0x83, 0x84, 0x85, 0x86
SCRIPT = "sh /usr/lib/chdebugd-guest/chdebug-mark.sh"
# A unit that is wanted by what was started may come after `systemctl start` is done.
JOB = f"""
wait_active() {{ until systemctl is-active --quiet "$1"; do sleep 1; done; }}
{commands("lab-guest")[1]}
chdebug-mark 0x81
{SCRIPT} 0x82

printf '[Service]\\nType=oneshot\\nRemainAfterExit=yes\\nExecStart=true\\n' \\
    > /run/systemd/system/app.service
systemctl daemon-reload
systemctl enable --runtime chdebug-mark-ready@app.service
systemctl start app.service
wait_active chdebug-mark-ready@app.service
systemctl start chdebug-mark@{OWN_UNIT:#x}.service
systemctl start chdebug-mark@{OWN_UNIT:#x}.service
systemctl enable --runtime chdebug-mark-network-online.service
systemctl start network-online.target
wait_active chdebug-mark-network-online.service

printf '\\203' > /dev/chdebug
modprobe --remove chdebug
modprobe chdebug on_load={BY_PARAMETER:#x}
cd /sys/module/chdebug/parameters
echo "parameters: $(cat on_load on_panic | tr '\\n' ' ')"
echo integrity > /sys/kernel/security/lockdown
chdebug-mark {BY_PROGRAM:#x}
echo c > /proc/sysrq-trigger
"""
LOCKED_JOB = f"""
chdebug-mark {NEVER:#x} 2>&1 || echo "status of the program: $?"
{SCRIPT} {NEVER:#x} 2>&1 || echo "status of the script: $?"
modprobe chdebug 2>&1 || echo "status of modprobe: $?"
journalctl -q -b -o cat -u 'chdebug-mark-*' | sed -n 's/^chdebug-mark:/by unit:/p'
systemctl --failed --plain --no-legend | sed 's/^/failed: /'
systemctl --no-block poweroff
"""


@pytest.fixture(scope="module")
def initrd(outer: OuterMachine) -> str:
    """Another machine's initrd with the kit's archive behind it."""
    outer.run(f"dpkg-deb --extract {PACKAGES}/chdebugd-guest_*.deb /srv/kit")
    append = "/srv/kit/usr/lib/chdebugd-guest/append-mark"
    outer.run(f"{append} {IMAGES}/initrd-generic {IMAGES}/marked-initrd")
    return f"{IMAGES}/marked-initrd"


def start(vm: Guest, initrd: str, words: str, job: str) -> None:
    """Boot it with these words for the kernel."""
    vm.start(
        kernel=f"{IMAGES}/vmlinuz-generic",
        initrd=initrd,
        cmdline=f"rdinit=/chdebug-init root=/dev/vda1 ro quiet {words}",
        memory=512 * MIB,
        serial="journal",
        code_map="chdebugd-guest",
        disks=[{"path": f"{IMAGES}/disk.img"}, vm.put_job(job)],
    )


@pytest.fixture(scope="module")
def kit(module_guest: Callable[[str], Guest], initrd: str) -> Guest:
    """A guest that did the whole job and then panicked; it gave its disk back."""
    vm = module_guest("kit")
    start(vm, initrd, "panic=0 modules_load=chdebug", JOB)
    vm.wait_mark(PANIC)
    vm.call("Kill")
    vm.wait_state("stopped")
    return vm


@pytest.fixture(scope="module")
def locked(module_guest: Callable[[str], Guest], initrd: str) -> Guest:
    """A guest whose kernel was locked down from the beginning; it is off."""
    vm = module_guest("locked")
    start(vm, initrd, "panic=-1 lockdown=integrity", LOCKED_JOB)
    vm.wait_state("stopped")
    return vm


def test_all_marks_come_in_their_order(kit: Guest) -> None:
    by_units = [READY, OWN_UNIT, OWN_UNIT, NETWORK_ONLINE]
    by_module = [BY_DEVICE, BY_PARAMETER, BY_PROGRAM, PANIC]

    assert [mark.code for mark in kit.marks()] == [
        ARCHIVE,
        INITRAMFS,
        INITRAMFS_END,
        MODULE,
        *TARGETS,
        *PROGRAM,
        *by_units,
        *by_module,
    ]


def test_the_modules_parameters_can_be_read(kit: Guest) -> None:
    assert f"parameters: {BY_PARAMETER} {PANIC}" in kit.text()


def test_a_locked_down_boot_goes_on_without_its_marks(locked: Guest) -> None:
    assert locked.marks() == []
    assert [line for line in locked.text() if line.startswith("failed: ")] == []


def test_lockdown_is_told_with_the_next_step(locked: Guest) -> None:
    text = locked.text()

    assert "status of the program: 1" in text
    assert "status of the script: 1" in text
    assert "status of modprobe: 1" in text
    said = [line for line in text if line.startswith(("chdebug-mark: ", "by unit: "))]
    assert len(said) == 1 + len(TARGETS)
    for line in said:
        assert "locked down (Secure Boot)" in line
        assert "load the module chdebug, signed" in line
