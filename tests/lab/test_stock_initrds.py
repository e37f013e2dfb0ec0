"""Initrds as Debian makes them for any machine, and the network that one of them finds."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.lab.guest import IMAGES, Guest
from tests.lab.outer import OuterMachine

KIT = [0x48, 0x4F, 0x61, 0x62, 0x64]
CMDLINE = "root=/dev/vda1 ro quiet panic=-1"
TAP, PORT = "lab0", 7007
OUTSIDE, INSIDE, MAC = "192.0.2.1", "192.0.2.2", "52:54:00:4c:61:62"
SENT = 1 << 20  # bytes
ECHO = f"""
systemd-run --quiet systemd-socket-activate --listen={PORT} --accept --inetd cat
until ss --listening --tcp --numeric | grep --quiet :{PORT}; do sleep 0.2; done
"""
ASK = f"""
head -c {SENT} /dev/urandom > /run/sent
bash -e <<'BASH'
exec 3<> /dev/tcp/ADDRESS/{PORT}
cat /run/sent >&3 &
head -c {SENT} <&3 | cmp - /run/sent
BASH
echo "echoed: all"
"""
NETWORK_JOB = f"""
interface=$(ls /sys/class/net | grep -v '^lo$')
echo "mac: $(cat /sys/class/net/$interface/address)"
ip address add {INSIDE}/24 dev $interface
ip link set $interface up
{ECHO}
{ASK.replace("ADDRESS", OUTSIDE)}
"""


def test_the_initrd_of_dracut(guest: Callable[[str], Guest]) -> None:
    vm = guest("dracut")
    vm.start(
        kernel=f"{IMAGES}/vmlinuz-cloud",
        initrd=f"{IMAGES}/dracut-initrd-cloud",
        cmdline=CMDLINE,
        serial="journal",
        disks=[{"path": f"{IMAGES}/disk.img"}, vm.put_job("true")],
    )
    vm.wait_mark(KIT[-1])

    assert [mark.code for mark in vm.marks()] == KIT


@pytest.fixture(scope="module")
def with_network(outer: OuterMachine, module_guest: Callable[[str], Guest]) -> Guest:
    """A guest that found its network, answers in it, and asked through it."""
    outer.run(f"ip tuntap add dev {TAP} mode tap && ip address add {OUTSIDE}/24 dev {TAP}")
    outer.run(f"ip link set {TAP} up")
    outer.run(ECHO)
    vm = module_guest("stock-initrd")
    vm.boot(
        f"{IMAGES}/vmlinuz-generic",
        f"{IMAGES}/stock-initrd-generic",
        f"--cmdline={CMDLINE}",
        "--serial=journal",
        "--disk",
        f"path={IMAGES}/disk.img",
        f"path={vm.put_job(NETWORK_JOB)['path']},readonly=on,id=job",
        "--net",
        f"tap={TAP},mac={MAC}",
    )
    vm.wait_text("job ended with")
    vm.wait_mark(KIT[-1])
    return vm


def test_the_initrd_with_most_modules(with_network: Guest) -> None:
    assert [mark.code for mark in with_network.marks()] == KIT


def test_a_tap_carries_traffic_both_ways(outer: OuterMachine, with_network: Guest) -> None:
    text = with_network.text()

    assert f"mac: {MAC}" in text
    assert "echoed: all" in text
    assert outer.run(ASK.replace("ADDRESS", INSIDE), timeout=600) == "echoed: all\n"
