"""Where machined is installed, `machinectl` knows the VMs; nothing waits for it."""

from __future__ import annotations

import pytest
from container.container import Container

from tests.guests import SLEEP
from tests.system.conftest import call_vm, guest, wait_for, wait_state

pytestmark = pytest.mark.kvm


@pytest.fixture(scope="module")
def with_machined(container: Container) -> Container:
    container.run("apt-get", "install", "--yes", "systemd-container")
    return container


def machines(container: Container) -> str:
    return container.run("machinectl", "list", "--no-legend", check=False).stdout


def test_machinectl_lists_a_vm_until_it_ends(with_machined: Container) -> None:
    with_machined.start_vm("listed", guest(with_machined, "listed", SLEEP))
    wait_for(lambda: "listed vm chdebugd" in machines(with_machined))

    call_vm(with_machined, "listed", "Kill")

    wait_for(lambda: "listed" not in machines(with_machined))


def test_machinectl_poweroff_presses_the_button(with_machined: Container) -> None:
    with_machined.start_vm("off", guest(with_machined, "off", SLEEP))
    wait_for(lambda: "off " in machines(with_machined))

    with_machined.run("machinectl", "poweroff", "off")

    wait_state(with_machined, "off", "stopped")


def test_a_name_that_machined_does_not_take_runs_all_the_same(with_machined: Container) -> None:
    with_machined.start_vm("no_host.name-", guest(with_machined, "odd", SLEEP))
    unit = "chdebugd-machine@no_host.name\\x2d.service"

    shown = with_machined.run("systemctl", "show", "--property=Result", unit).stdout

    assert shown == "Result=success\n"
    assert "no_host" not in machines(with_machined)
