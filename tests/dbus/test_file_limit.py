"""A log or text file has a limit, so that no guest fills the disk; and may be moved away."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import pytest

from chdebugd.dbus_library import Variant
from chdebugd.trace.journal import MessageId
from chdebugd.trace.ring import Reader, Ring
from tests.dbus.conftest import VM, Client, Daemon, file_with, restarted, story, vm_pids
from tests.guests import FOREVER, burst, rom

pytestmark = [pytest.mark.kvm, pytest.mark.dbus]
LIMIT = 8192  # bytes: some 80 lines
MARKS = 60
TEXT = (
    b"\xba\x02\x04"  # mov $0x402, %dx
    b"\x66\xb9" + (LIMIT + 10).to_bytes(4, "little")  # mov $(LIMIT + 10), %ecx
    + b"\xb0\x61"  # mov $'a', %al
    b"\xee"  # 1: out %al, %dx
    b"\x66\x49"  # dec %ecx
    b"\x75\xfb"  # jnz 1b
)  # fmt: skip


def log_is_drained(daemon: Daemon, marks: int) -> bool:
    """Whether so many were made, and each is in the log file or counted as lost."""
    files = Path(f"/proc/{vm_pids(daemon.runtime_dir)['fw0']}/fd")
    path = next(each for each in files.iterdir() if "chdebugd-ring" in os.readlink(each))
    with contextlib.closing(Ring(os.open(path, os.O_RDWR))) as ring:
        return ring.position(Reader.LOG) == ring.head == marks


async def limited(daemon: Daemon, client: Client) -> None:
    daemon.config.write_text(f"[limits]\nbytes-per-file = {LIMIT}\n")
    await restarted(daemon, client)


@story
async def test_a_log_file_at_its_limit_counts_lines_until_it_is_cut(
    daemon: Daemon, client: Client
) -> None:
    await limited(daemon, client)
    guest = file_with(daemon.runtime_dir.parent, rom(burst(MARKS) + FOREVER))
    options = {"firmware": Variant("s", str(guest)), "log-file": Variant("s", "fw0.log")}
    path = await client.start_vm("fw0", **options)
    log = daemon.log_dir / "fw0.log"

    def told() -> list[dict[str, str]]:
        return daemon.journal.entries(MESSAGE_ID=MessageId.LOG_FILE_ERROR.value)

    await client.wait_for(lambda: log.read_bytes().count(b"\n") == MARKS)
    await client.call(path, VM, "Reset")
    await client.wait_for(lambda: log_is_drained(daemon, 2 * MARKS))  # or the rest comes later
    await client.wait_for(lambda: len(told()) == 1)
    before = log.read_bytes()
    with log.open("wb"):
        pass
    await client.call(path, VM, "Reset")
    await client.wait_for(lambda: log.read_bytes().count(b"\n") == MARKS)
    await client.wait_for(lambda: len(told()) == 2)

    full, room = told()
    assert f"it has reached the limit of {LIMIT} bytes" in full["MESSAGE"]
    assert len(before) <= LIMIT
    assert before.endswith(b"\n")
    assert before.count(b"\n") + int(room["LOST_LINES"]) == 2 * MARKS
    assert await client.get(path, "EventCount") == 3 * MARKS
    assert await client.get(path, "StalledUSec") == 0


@story
async def test_a_text_file_that_is_moved_away_goes_on_in_a_new_one(
    daemon: Daemon, client: Client
) -> None:
    guest = file_with(daemon.runtime_dir.parent, rom(TEXT + burst(1) + FOREVER))
    options = {"firmware": Variant("s", str(guest)), "firmware-debug": Variant("s", "file:text")}
    path = await client.start_vm("fw0", **options)
    text = daemon.log_dir / "text"
    await client.wait_for(lambda: len(client.events(path)) == 1)
    text.rename(text.with_name("text.1"))
    await restarted(daemon, client)

    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGHUP)
    await client.wait_for(text.exists)
    await client.call(path, VM, "Pause")  # answered after the request for the new file
    await client.call(path, VM, "Resume")
    await client.call(path, VM, "Reset")
    await client.wait_for(lambda: text.stat().st_size == LIMIT + 10)

    assert text.with_name("text.1").stat().st_size == LIMIT + 10


@story
async def test_a_text_file_at_its_limit_takes_no_more(daemon: Daemon, client: Client) -> None:
    await limited(daemon, client)
    guest = file_with(daemon.runtime_dir.parent, rom(TEXT + burst(1) + FOREVER))
    port = Variant("s", "file:text")
    path = await client.start_vm(
        "fw0", **{"firmware": Variant("s", str(guest)), "firmware-debug": port}
    )
    await client.wait_for(lambda: len(client.events(path)) == 1)
    await client.call(path, VM, "Kill")
    kind = MessageId.GUEST_TEXT.value
    await client.wait_for(lambda: len(daemon.journal.entries(MESSAGE_ID=kind)) == 2)

    full, lost = daemon.journal.entries(MESSAGE_ID=kind)
    assert (full["PORT"], full["LIMIT"]) == ("firmware-debug", str(LIMIT))
    assert lost["LOST_BYTES"] == "10"
    assert (daemon.log_dir / "text").read_bytes() == b"a" * LIMIT
