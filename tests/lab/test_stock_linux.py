"""Stock Debian with 4 vCPUs, 1024 MiB, a disk and entropy: two boots of one VM, told by itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.lab.guest import IMAGES, Guest

MIB = 1 << 20
# What the kit in the guest marks: the initramfs begins and ends, three targets, and then the job.
KIT = [0x48, 0x4F, 0x61, 0x62, 0x64]
JOB_BEGINS, JOB_WROTE, JOB_READ = 0x81, 0x82, 0x83
JOB = f"""
chdebug-mark {JOB_BEGINS}
if [ -e /root/written ]; then
    echo "read back: $(cat /root/written)"
    rm /root/written
    chdebug-mark {JOB_READ}
    systemctl --no-block poweroff
else
    echo "cpus: $(nproc)"
    echo "memory: $(free -m | awk '/^Mem:/ {{print $2}}')"
    echo "entropy: $(cat /sys/class/misc/hw_random/rng_current)"
    echo "random: $(head -c 32 /dev/hwrng | wc -c)"
    lsblk --noheadings --nodeps --bytes -o NAME,SIZE,RO,SERIAL | sed 's/^/disk: /'
    echo "virtualization: $(systemd-detect-virt)"
    echo "clock: $(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
    dmesg | grep -E 'ACPI.*(Warning|Error|BUG)|[Ff]irmware [Bb]ug|WARNING:|Call Trace' |
        sed 's/^/complaint: /' || :
    dmesg --level=emerg,alert,crit,err | sed 's/^/error: /'
    systemctl is-system-running | sed 's/^/system: /' || :
    systemctl --failed --plain --no-legend | sed 's/^/failed: /'
    echo "what is written" > /root/written
    sync
    chdebug-mark {JOB_WROTE}
    systemctl --no-block reboot
fi
"""


class TwoBoots:
    """What is left of the VM when it has switched itself off."""

    def __init__(self, guest: Guest) -> None:
        self.marks = guest.marks()
        self.text = guest.text()
        self.state = guest.get("State")
        self.result = guest.get("Result")
        self.boot_count = int(guest.get("BootCount"))

    def facts(self, name: str) -> list[str]:
        """What the job said under this name."""
        return [line.removeprefix(f"{name}: ") for line in self.text if line.startswith(f"{name}:")]

    def codes(self, boot: int) -> list[int]:
        """The codes of the first boot (0) or the second (1)."""
        ids = list(dict.fromkeys(mark.boot for mark in self.marks))
        return [mark.code for mark in self.marks if mark.boot == ids[boot]]


@pytest.fixture(scope="module")
def boots(module_guest: Callable[[str], Guest]) -> TwoBoots:
    guest = module_guest("stock")
    job = guest.put_job(JOB)
    guest.start(
        kernel=f"{IMAGES}/vmlinuz-cloud",
        initrd=f"{IMAGES}/initrd-cloud",
        cmdline="root=/dev/vda1 ro quiet panic=-1",
        cpus=4,
        memory=1024 * MIB,
        rng=True,
        serial="journal",
        disks=[{"path": f"{IMAGES}/disk.img", "id": "root"}, job],
    )
    guest.wait_state("stopped")
    return TwoBoots(guest)


def test_it_has_the_processors_and_the_memory(boots: TwoBoots) -> None:
    assert boots.facts("cpus") == ["4"]
    [memory] = boots.facts("memory")
    assert 900 < int(memory) <= 1024
    assert boots.facts("virtualization") == ["kvm"]
    assert boots.facts("clock") == ["kvm-clock"]


def test_it_has_entropy(boots: TwoBoots) -> None:
    assert boots.facts("entropy") == ["virtio_rng.0"]
    assert boots.facts("random") == ["32"]


def test_it_has_the_disks(boots: TwoBoots) -> None:
    root, job = (line.split() for line in boots.facts("disk"))
    assert root == ["vda", str(1025 * MIB), "0", "root"]
    assert job[:1] + job[2:] == ["vdb", "1", "job"]


def test_linux_has_no_complaint(boots: TwoBoots) -> None:
    assert boots.facts("complaint") == []
    assert boots.facts("error") == []
    assert boots.facts("failed") == []


def test_what_it_wrote_is_there_after_the_reboot(boots: TwoBoots) -> None:
    assert boots.facts("read back") == ["what is written"]


def test_only_marks_that_were_asked_for_come(boots: TwoBoots) -> None:
    assert boots.codes(0) == [*KIT, JOB_BEGINS, JOB_WROTE]
    assert boots.codes(1) == [*KIT, JOB_BEGINS, JOB_READ]


def test_each_boot_counts_from_the_start(boots: TwoBoots) -> None:
    ids = {mark.boot for mark in boots.marks}
    assert len(ids) == boots.boot_count == 2
    for boot in ids:
        mine = [mark for mark in boots.marks if mark.boot == boot]
        assert [mark.seq for mark in mine] == list(range(mine[0].seq, mine[0].seq + len(mine)))
        assert [m.elapsed_nsec for m in mine] == sorted(m.elapsed_nsec for m in mine)


def test_poweroff_in_the_guest_stops_it(boots: TwoBoots) -> None:
    assert boots.state == "stopped"
