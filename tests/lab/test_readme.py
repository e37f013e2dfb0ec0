"""README.md's way to measure a kernel's boot, as its reader types it."""

from __future__ import annotations

from tests.docs.fences import commands
from tests.lab.installed import PACKAGES
from tests.lab.outer import OuterMachine

PLACE = "/srv/readme"


def test_the_boot_of_the_hosts_own_kernel_is_measured_and_drawn(outer: OuterMachine) -> None:
    outer.run(f"mkdir {PLACE} && cp {PACKAGES}/*.deb {PLACE}")
    for command in commands("lab"):
        outer.run(f"cd {PLACE} && {command}", timeout=900)

    assert outer.run(f"head -c 5 {PLACE}/web.svg") == "<svg "
    assert "0x48" in outer.run("chdebugctl time web")
