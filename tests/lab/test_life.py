"""What happens to a running Debian from outside: the power button, and a pause."""

from __future__ import annotations

from collections.abc import Callable

from tests.lab.guest import IMAGES, Guest
from tests.lab.outer import OuterMachine

MIB = 1 << 20
BEFORE_SLEEP, AFTER_SLEEP, GOING_DOWN = 0x81, 0x82, 0x83
SLEEP = 20  # seconds, in which the pause must begin
PAUSE = 10  # seconds
STOP_TIMEOUT_USEC = 900_000_000
JOB = f"""
stop_command='/usr/bin/chdebug-mark {GOING_DOWN}'
systemd-run --quiet --remain-after-exit --property=ExecStop="$stop_command" true
chdebug-mark {BEFORE_SLEEP}
before=$(cut -d. -f1 /proc/uptime)
sleep {SLEEP}
echo "slept: $(($(cut -d. -f1 /proc/uptime) - before))"
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
    vm.wait_text("slept: ")
    vm.wait_mark(AFTER_SLEEP)
    [slept] = [line.removeprefix("slept: ") for line in vm.text() if line.startswith("slept: ")]
    elapsed = {mark.code: mark.elapsed_nsec / 1e9 for mark in vm.marks()}
    host_time = elapsed[AFTER_SLEEP] - elapsed[BEFORE_SLEEP]
    assert SLEEP - 1 <= int(slept) <= host_time - PAUSE + 1

    vm.call("Stop", "t", str(STOP_TIMEOUT_USEC))
    vm.wait_state("stopped")
    assert vm.marks()[-1].code == GOING_DOWN
