"""A guest that broke out of its device model, as the daemon's clients see its end.

No real device model can be broken out of on demand; a module that Python loads at start stands in.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from chdebugd.dbus_library import Variant
from tests.dbus.conftest import ROOT, Client, Daemon, ErrorReply, file_with, story
from tests.guests import FOREVER, burst, mark, rom

pytestmark = [pytest.mark.kvm, pytest.mark.dbus]

BROKEN_PORT_92 = """
import os
from chdebugd.vmm.devices.power import Port92
Port92.write = lambda *_: os.open("/etc/shadow", os.O_RDONLY)
"""
NO_SECCOMP = """
from chdebugd.vmm.kvm import check
from chdebugd.vmm.vcpu_fd import VcpuFd
VcpuFd.confine = lambda _: check(-38, "seccomp")
"""
BREAK_OUT = b"\xe6\x92"  # out %al, $0x92


def start_anew(daemon: Daemon, stand_in: str) -> Path:
    """Start the daemon with a module that each of its Pythons runs; returns a place for files."""
    daemon.stop()
    directory = daemon.runtime_dir.parent
    (directory / "sitecustomize.py").write_text(stand_in)
    daemon.environment["PYTHONPATH"] = os.pathsep.join([str(directory), str(ROOT)])
    daemon.start()
    return directory


def test_a_forbidden_call_ends_the_vm_and_loses_no_mark(
    daemon: Daemon,
) -> None:
    directory = start_anew(daemon, BROKEN_PORT_92)
    image = file_with(directory, rom(mark(1) + burst(3000) + mark(2) + BREAK_OUT + FOREVER))

    @story
    async def broken_out(daemon: Daemon, client: Client) -> None:
        daemon.journal.stop()  # or one mark would be on its way there when the process dies
        vm = await client.start_vm("fw0", firmware=Variant("s", str(image)))
        await client.wait_state(vm, "failed")
        daemon.journal.go()
        await client.wait_for(lambda: len(client.events(vm)) == 3002)

        assert await client.get(vm, "Result") == "forbidden-call"
        await client.wait_for(lambda: bool(daemon.journal.entries(VM="fw0", SEQ="3002")))
        sequence = [int(e["SEQ"]) for e in daemon.journal.entries(VM="fw0") if "SEQ" in e]
        assert sequence == list(range(1, 3003))

    broken_out(daemon)


def test_a_host_without_seccomp_starts_no_vm(daemon: Daemon) -> None:
    directory = start_anew(daemon, NO_SECCOMP)
    image = file_with(directory, rom(mark(1) + FOREVER))

    @story
    async def refused(daemon: Daemon, client: Client) -> None:
        with pytest.raises(ErrorReply, match="seccomp: Function not implemented") as refusal:
            await client.start_vm("fw0", firmware=Variant("s", str(image)))

        assert refusal.value.name == "org.chdebugd1.Error.StartFailed"
        assert await client.call("/org/chdebugd1", "org.chdebugd1.Manager", "ListVMs") == []

    refused(daemon)
