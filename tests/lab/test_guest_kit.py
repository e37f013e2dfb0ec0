"""The guest kit in a stock Debian: each way to the port, lockdown, the module, units, any initrd.

What GRUB, initramfs-tools and systemd's targets mark is in test_boot_ways and test_stock_linux.
"""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.docs.fences import commands
from tests.lab.guest import IMAGES, Guest
from tests.lab.installed import PACKAGES
from tests.lab.outer import OuterMachine

MIB = 1 << 20
KIT = Path(__file__).parents[2] / "packaging/guest"
ARCHIVE, INITRAMFS, INITRAMFS_END = 0x48, 0x48, 0x4F
TARGETS = [0x61, 0x62, 0x64]
PROGRAM = [0x80, 0x81, 0x82]
NETWORK_ONLINE, READY, MODULE, PANIC = 0x63, 0x70, 0x42, 0x5F
OWN_UNIT = 0x72
BY_DEVICE, BY_PROGRAM, NEVER = 0x83, 0x84, 0x85
JOB = f"""
{commands("lab-guest")[0]}
chdebug-mark 0x81
sh /usr/lib/chdebugd-guest/chdebug-mark.sh 0x82

printf '[Service]\\nType=oneshot\\nRemainAfterExit=yes\\nExecStart=true\\n' \\
    > /run/systemd/system/app.service
systemctl daemon-reload
systemctl enable --runtime chdebug-mark-ready@app.service
systemctl start app.service
systemctl start chdebug-mark@{OWN_UNIT:#x}.service
systemctl start chdebug-mark@{OWN_UNIT:#x}.service
systemctl enable --runtime chdebug-mark-network-online.service
systemctl start network-online.target

base64 -d > /run/chdebug.ko <<'MODULE_ENDS'
MODULE_TEXT
MODULE_ENDS
insmod /run/chdebug.ko
printf '\\203' > /dev/chdebug
echo integrity > /sys/kernel/security/lockdown
chdebug-mark {BY_PROGRAM:#x}
rm /dev/chdebug
chdebug-mark {NEVER:#x} 2>&1 || echo "status of the program: $?"
sh /usr/lib/chdebugd-guest/chdebug-mark.sh {NEVER:#x} 2>&1 || echo "status of the script: $?"
echo c > /proc/sysrq-trigger
"""


def module_for(release: str, place: Path) -> str:
    """The module built for this kernel, as text."""
    headers = Path("/lib/modules", release, "build")
    if not headers.exists():
        install = ["apt-get", "install", "-q", "-y", f"linux-headers-{release}"]
        subprocess.run(install, check=True, capture_output=True)
    subprocess.run(["cp", "-r", KIT / "kernel", place], check=True)
    build: list[str | Path] = ["make", "--silent", "-C", place / "kernel", f"KDIR={headers}"]
    subprocess.run(build, check=True, capture_output=True)
    module = place / "kernel/chdebug.ko"
    subprocess.run(["strip", "--strip-debug", module], check=True)
    return base64.encodebytes(module.read_bytes()).decode()


@pytest.fixture(scope="module")
def kit(
    outer: OuterMachine,
    module_guest: Callable[[str], Guest],
    tmp_path_factory: pytest.TempPathFactory,
) -> Guest:
    """A guest that did the whole job and then panicked; its initrd was made elsewhere."""
    outer.run(f"dpkg-deb --extract {PACKAGES}/chdebugd-guest_*.deb /srv/kit")
    append = "/srv/kit/usr/lib/chdebugd-guest/append-mark"
    outer.run(f"{append} {IMAGES}/initrd-generic {IMAGES}/marked-initrd")
    release = outer.run("uname -r").strip()
    module = module_for(release, tmp_path_factory.mktemp("module"))
    vm = module_guest("kit")
    vm.start(
        kernel=f"{IMAGES}/vmlinuz-generic",
        initrd=f"{IMAGES}/marked-initrd",
        cmdline="rdinit=/chdebug-init root=/dev/vda1 ro quiet panic=0",
        memory=512 * MIB,
        serial="journal",
        code_map="chdebugd-guest",
        disks=[
            {"path": f"{IMAGES}/disk.img"},
            vm.put_job(JOB.replace("MODULE_TEXT", module.strip())),
        ],
    )
    vm.wait_mark(PANIC)
    return vm


def test_all_marks_come_in_their_order(kit: Guest) -> None:
    by_units = [READY, OWN_UNIT, OWN_UNIT, NETWORK_ONLINE]
    by_module = [MODULE, BY_DEVICE, BY_PROGRAM, PANIC]

    assert [mark.code for mark in kit.marks()] == [
        ARCHIVE,
        INITRAMFS,
        INITRAMFS_END,
        *TARGETS,
        *PROGRAM,
        *by_units,
        *by_module,
    ]


def test_lockdown_is_told_with_the_next_step(kit: Guest) -> None:
    text = kit.text()

    assert "status of the program: 1" in text
    assert "status of the script: 1" in text
    said = [line for line in text if line.startswith("chdebug-mark: ")]
    assert len(said) == 1
    assert "locked down (Secure Boot)" in said[0]
