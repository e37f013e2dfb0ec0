"""What happens to a running Debian from outside: the power button, and a pause."""

from __future__ import annotations

from collections.abc import Callable

from tests.lab.guest import IMAGES, Guest
from tests.lab.outer import OuterMachine

MIB = 1 << 20
BEFORE_SLEEP, AFTER_SLEEP, GOING_DOWN = 0x81, 0x82, 0x83
PAUSE = 20  # seconds
STOP_TIMEOUT_USEC = 200_000_000
JOB = f"""
systemd-run --quiet --remain-after-exit --property=ExecStop="chdebug-mark {GOING_DOWN}" true
chdebug-mark {BEFORE_SLEEP}
before=$(cut -d. -f1 /proc/uptime)
sleep 3
echo "slept: $(($(cut -d. -f1 /proc/uptime) - before))"
dmesg | grep -i -E 'unstable|soft lockup|rcu.*stall|jumped' | sed 's/^/complaint: /' || :
chdebug-mark {AFTER_SLEEP}
"""


def test_a_pause_stops_its_clock_and_the_power_button_its_systemd(
    outer: OuterMachine, guest: Callable[[str], Guest]
) -> None:
    vm = guest("life")
    vm.start(
        kernel=f"{IMAGES}/vmlinuz-cloud",
        initrd=f"{IMAGES}/initrd-cloud",
        cmdline="root=/dev/vda1 ro quiet panic=-1",
        memory=512 * MIB,
        serial="journal",
        disks=[{"path": f"{IMAGES}/disk.img"}, vm.put_job(JOB)],
    )
    vm.wait_mark(BEFORE_SLEEP)
    vm.call("Pause")
    outer.run(f"sleep {PAUSE}")
    vm.call("Resume")
    vm.wait_mark(AFTER_SLEEP)
    text = vm.text()
    [slept] = [line.removeprefix("slept: ") for line in text if line.startswith("slept: ")]
    assert 2 <= int(slept) < PAUSE
    assert [line for line in text if line.startswith("complaint")] == []

    vm.call("Stop", "t", str(STOP_TIMEOUT_USEC))
    vm.wait_state("stopped")
    assert vm.marks()[-1].code == GOING_DOWN
