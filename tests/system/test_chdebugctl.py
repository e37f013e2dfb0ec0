"""chdebugctl as it is installed, for a member of the groups, a stranger and root."""

from __future__ import annotations

import json

import pytest
from container.container import Container

from tests.guests import SHUTDOWN, SLEEP, mark, rom

pytestmark = pytest.mark.kvm

FIRMWARE = "/home/member/private.rom"


@pytest.fixture(scope="module")
def host(container: Container) -> Container:
    """With a stranger, and a member whose firmware nobody else may read."""
    container.user("stranger")
    container.user("member", "chdebugd", "systemd-journal")
    container.run("install", "-d", "-o", "member", "-m", "700", "/home/member")
    container.put(FIRMWARE, rom(mark(0x00, 0x40, 0x41) + SHUTDOWN), 0o600)
    container.run("chown", "member:", FIRMWARE)
    return container


def ctl(host: Container, *words: str, user: str = "member", status: int = 0) -> str:
    """What chdebugctl prints, for a user; it must end with this exit status."""
    done = host.run("chdebugctl", *words, user=user, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_a_member_boots_a_file_that_only_they_may_read(host: Container) -> None:
    shown = ctl(host, "boot", "--name=mine", "--firmware", FIRMWARE, "--map=cloud-hypervisor")

    assert "0x40 kernel-start" in shown
    told = json.loads(ctl(host, "--json=short", "time", "mine", "--origin=request"))
    assert [point["key"] for point in told["points"]][:2] == ["request", "start"]
    assert told["points"][-1]["name"] == "userspace-start"
    assert ctl(host, "events", "mine", "--csv").count("\n") == 4
    assert ctl(host, "plot", "mine").startswith("<svg ")
    assert '"traceEvents"' in ctl(host, "export", "mine")


def test_a_member_benches_without_what_is_only_recommended(host: Container) -> None:
    run = json.loads(ctl(host, "bench", "--runs=2", "--firmware", FIRMWARE, "--export", "json"))

    assert len(run["boots"]) == 2
    assert "install python3-scipy" in ctl(host, "bench", "--runs=5", "--budget=total=1", status=1)


def test_a_member_controls_vms_of_the_template(host: Container) -> None:
    host.put("/srv/sleep.rom", rom(mark(0x40) + SLEEP))
    ctl(host, "boot", "--detach", "--name=t", "--firmware=/srv/sleep.rom")

    assert "running" in ctl(host, "list")
    host.run("systemctl", "is-active", "chdebugd-vm@t.service")
    ctl(host, "stop", "--timeout=0", "t")
    assert "stopped" in ctl(host, "status", "t")
    ctl(host, "remove", "t")


def test_a_stranger_may_look_and_change_nothing(host: Container) -> None:
    assert "0 VMs" in ctl(host, "list", user="stranger")

    refused = ctl(host, "boot", user="stranger", status=1)

    assert "may not do org.chdebugd1.start-vm; join the group chdebugd, or ask as root" in refused
    unread = ctl(host, "time", "mine", user="stranger", status=1)
    assert "join the group systemd-journal or ask as root" in unread


def test_the_maps_are_installed(host: Container) -> None:
    maps = ctl(host, "codes")

    assert "/usr/share/chdebugd/codes/u-boot.toml" in maps
    assert "BAD" not in maps


def test_bash_completes_it_in_a_shell(host: Container) -> None:
    script = (
        "source /usr/share/bash-completion/completions/chdebugctl; "
        'COMP_WORDS=(chdebugctl boot --map ""); COMP_CWORD=3; _chdebugctl; echo "${COMPREPLY[@]}"'
    )

    assert "u-boot" in host.run("bash", "-c", script).stdout.split()
