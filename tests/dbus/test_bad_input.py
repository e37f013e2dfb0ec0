"""Whatever is wrong with a StartVM has a named error with a sentence, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from chdebugd.bus_dbus import GuardedWriter
from chdebugd.dbus_library import Message, MessageBus, Variant
from chdebugd.limits import host_memory
from tests.dbus.conftest import MANAGER, TIMEOUT, Client, Daemon, ErrorReply, story, vm_pids
from tests.guests import SHUTDOWN, SLEEP, mark, rom
from tests.images import XEN_NOTE, pvh_elf

pytestmark = [pytest.mark.kvm, pytest.mark.dbus]

PAGE = 4096
MIB = 1 << 20
Options = dict[str, Variant]


@pytest.fixture(scope="module")
def files(shared_daemon: Daemon) -> Path:
    """A folder of images, right and wrong, and of what is no file at all."""
    folder = shared_daemon.runtime_dir.parent / "files"
    folder.mkdir()
    elf = pvh_elf(SHUTDOWN)
    for name, data in {
        "good": rom(mark(1) + SHUTDOWN),
        "empty": b"",
        "odd": bytes(15),
        "huge": bytes(17 * MIB),
        "elf": elf,
        "elf-cut": elf[:70],
        "elf-cut-data": elf[:-20],
        "elf-without-note": pvh_elf(SHUTDOWN, note=b""),
        "elf-of-32-bits-of-nothing": b"\x7fELF\x01\x01\x01".ljust(64, b"\0"),
        "elf-beyond-memory": pvh_elf(SHUTDOWN, address=600 * MIB),
        "elf-larger-than-memory": pvh_elf(SHUTDOWN, memory_size=1 << 40),
        "elf-at-the-end-of-all": pvh_elf(
            SHUTDOWN, address=(1 << 64) - PAGE, note=XEN_NOTE + bytes(4)
        ),
        "text": b"#!/bin/sh\n" * 1000,
    }.items():
        (folder / name).write_bytes(data)
    (folder / "folder").mkdir()
    os.mkfifo(folder / "fifo")
    (folder / "to-fifo").symlink_to("fifo")
    (folder / "dangling").symlink_to("nowhere")
    (folder / "loop").symlink_to("loop")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
    return folder


@pytest.fixture
def opened(files: Path) -> Iterator[Callable[[str], int]]:
    """Descriptors of every kind, closed after the test."""
    with ExitStack() as stack:

        def open_one(kind: str) -> int:
            path, _, flags = kind.partition(":")
            if path == "pipe":
                fd, other = os.pipe()
                stack.callback(os.close, other)
            elif path == "socket":
                pair = socket.socketpair()
                stack.callback(pair[1].close)
                fd = pair[0].detach()
            else:
                fd = os.open(files / path, getattr(os, flags or "O_RDONLY"))
            stack.callback(os.close, fd)
            return fd

        yield open_one


async def refused(
    daemon: Daemon, client: Client, error: str, name: str, options: Options, *fds: int
) -> str:
    """The sentence of the error that StartVM answers, once it is sure that nothing is left."""
    await client.call(*MANAGER, "ListVMs")
    before = daemon.fds
    start = client.call(*MANAGER, "StartVM", "sa{sv}", name, options, fds=list(fds))
    answer: object = (await asyncio.gather(start, return_exceptions=True))[0]
    if isinstance(answer, str):
        await client.call(answer, "org.chdebugd1.VM", "Remove")  # so that other rows may go on
    assert isinstance(answer, ErrorReply)
    assert answer.name == f"org.chdebugd1.Error.{error}"
    await nothing_is_left(daemon, client)
    await client.wait_for(lambda: daemon.fds <= before)
    return answer.text


async def nothing_is_left(daemon: Daemon, client: Client) -> None:
    assert await client.call(*MANAGER, "ListVMs") == []
    await client.wait_for(lambda: vm_pids(daemon.runtime_dir) == {})
    await client.wait_for(lambda: list((daemon.runtime_dir / "vm").iterdir()) == [])
    assert list(daemon.log_dir.iterdir()) == []


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".a", "a/b", "/", "a" * 65, "a" * 300, "a b", "a\n", "\n", "ä", "a:b", "%s"],
)
def test_a_bad_name(shared_daemon: Daemon, name: str) -> None:
    @story
    async def told(daemon: Daemon, client: Client) -> None:
        assert "use 1 to 64 of" in await refused(daemon, client, "InvalidName", name, {})

    told(shared_daemon)


def S(value: str) -> Variant:
    return Variant("s", value)


def U(value: int) -> Variant:
    return Variant("u", value)


def T(value: int) -> Variant:
    return Variant("t", value)


@pytest.mark.parametrize(
    ("error", "key", "value"),
    [
        ("InvalidOption", "colour", S("red")),
        ("InvalidOption", "", S("")),
        ("InvalidOption", "Memory", T(PAGE * 1024)),
        ("InvalidOption", "log_file", S("x")),
        ("InvalidOption", "x" * 5000, S("x")),
        ("InvalidOption", "cpus", U(0)),
        ("LimitExceeded", "cpus", U(65)),
        ("LimitExceeded", "cpus", U((1 << 32) - 1)),
        ("InvalidOption", "memory", T(0)),
        ("InvalidOption", "memory", T(1)),
        ("InvalidOption", "memory", T(PAGE)),
        ("InvalidOption", "memory", T(MIB - PAGE)),
        ("InvalidOption", "memory", T(MIB + 1)),
        ("InvalidOption", "memory", T(64 * MIB + 2048)),
        ("LimitExceeded", "memory", T(host_memory() + PAGE)),
        ("LimitExceeded", "memory", T((1 << 63) - 1)),
        ("LimitExceeded", "memory", T((1 << 64) - PAGE)),
        ("InvalidOption", "cmdline", S("x" * 65536)),
        ("InvalidOption", "log-level", S("loud")),
        ("InvalidOption", "log-level", S("")),
        ("InvalidOption", "on-full", S("panic")),
        ("InvalidOption", "code-map", S("../secret")),
        ("InvalidOption", "code-map", S("x" * 65)),
        ("InvalidOption", "serial", S("")),
        ("InvalidOption", "serial", S("tty")),
        ("InvalidOption", "debug-console", S("file:")),
        ("InvalidOption", "firmware-debug", S("x" * 1000)),
        ("InvalidOption", "kernel", S("")),
        ("InvalidOption", "firmware", S("")),
        ("InvalidOption", "log-file", S("")),
        ("InvalidOption", "disks", Variant("aa{sv}", [{}])),
        ("InvalidOption", "disks", Variant("aa{sv}", [{"path": U(1)}])),
        ("InvalidOption", "disks", Variant("aa{sv}", [{"path": S("")}])),
        ("InvalidOption", "disks", Variant("aa{sv}", [{"path": S("a"), "size": U(1)}])),
        ("InvalidOption", "disks", Variant("aa{sv}", [{"path": S("a"), "id": S("a/b")}])),
        ("InvalidOption", "disks", Variant("aa{sv}", [{"path": S("a"), "id": S("x" * 21)}])),
        ("InvalidOption", "disks", Variant("aa{sv}", [{"path": S("a"), "readonly": S("no")}])),
        ("InvalidImage", "disks", Variant("aa{sv}", [{"path": S("/nowhere")}])),
        ("InvalidOption", "net", Variant("aa{sv}", [{}])),
        ("InvalidOption", "net", Variant("aa{sv}", [{"tap": S("tap0")}])),
        ("InvalidOption", "net", Variant("aa{sv}", [{"tap": Variant("h", 0)}])),
        ("InvalidOption", "net", Variant("aa{sv}", [{"mac": S("nonsense")}])),
        ("InvalidOption", "net", Variant("aa{sv}", [{"mac": S("01:00:00:00:00:00")}])),
        ("InvalidOption", "net", Variant("aa{sv}", [{"bridge": S("br0")}])),
    ],
)
def test_a_bad_option(shared_daemon: Daemon, error: str, key: str, value: Variant) -> None:
    @story
    async def told(daemon: Daemon, client: Client) -> None:
        sentence = await refused(daemon, client, error, "a", {key: value})
        names = {"disks": "disk", "net": "tap"}
        assert f"'{key[:80]}" in sentence or names[key] in sentence

    told(shared_daemon)


TYPES = {
    "s": "kernel initrd cmdline firmware serial debug-console firmware-debug log-file log-level "
    "code-map on-full",
    "u": "cpus",
    "t": "memory",
    "b": "rng",
    "aa{sv}": "disks net",
}
SAMPLES = [S("x"), U(1), T(MIB), Variant("b", True), Variant("d", 1.0), Variant("as", ["x"])]
SAMPLES += [Variant("aa{sv}", []), Variant("v", S("x")), Variant("ay", b"x"), Variant("i", 1)]
RIGHT_TYPE = {key: kind for kind, keys in TYPES.items() for key in keys.split()}


@pytest.mark.parametrize("key", RIGHT_TYPE)
def test_an_option_of_another_type(shared_daemon: Daemon, key: str) -> None:
    @story
    async def told(daemon: Daemon, client: Client) -> None:
        for sample in SAMPLES:
            if sample.signature != RIGHT_TYPE[key]:
                sentence = await refused(daemon, client, "InvalidOption", "a", {key: sample})
                assert f"'{key}' has type '{sample.signature}'" in sentence

    told(shared_daemon)


@pytest.mark.parametrize(
    ("error", "key", "file"),
    [
        ("InvalidImage", "firmware", "missing"),
        ("InvalidImage", "firmware", "good/below-a-file"),
        ("InvalidImage", "firmware", "x" * 300),
        ("InvalidImage", "firmware", "folder"),
        ("InvalidImage", "firmware", "empty"),
        ("InvalidImage", "firmware", "odd"),
        ("InvalidImage", "firmware", "huge"),
        ("InvalidImage", "firmware", "fifo"),
        ("InvalidImage", "firmware", "to-fifo"),
        ("InvalidImage", "firmware", "dangling"),
        ("InvalidImage", "firmware", "loop"),
        ("InvalidImage", "firmware", "socket"),
        ("InvalidImage", "firmware", "/dev/zero"),
        ("InvalidImage", "firmware", "/dev/null"),
        ("InvalidImage", "firmware", "/proc/version"),
        ("InvalidImage", "firmware", "elf-without-note"),
        ("InvalidImage", "firmware", "elf-cut"),
        ("InvalidImage", "kernel", "missing"),
        ("InvalidImage", "kernel", "folder"),
        ("InvalidImage", "kernel", "empty"),
        ("InvalidImage", "kernel", "text"),
        ("InvalidImage", "kernel", "fifo"),
        ("InvalidImage", "kernel", "/proc/self/status"),
        ("InvalidImage", "kernel", "elf-cut"),
        ("InvalidImage", "kernel", "elf-cut-data"),
        ("InvalidImage", "kernel", "elf-without-note"),
        ("InvalidImage", "kernel", "elf-of-32-bits-of-nothing"),
        ("InvalidImage", "kernel", "elf-beyond-memory"),
        ("InvalidImage", "kernel", "elf-larger-than-memory"),
        ("InvalidImage", "kernel", "elf-at-the-end-of-all"),
        ("InvalidOption", "initrd", "good"),
    ],
)
def test_a_bad_image(shared_daemon: Daemon, files: Path, error: str, key: str, file: str) -> None:
    """A log file is asked for too: it must not stay behind, empty."""

    @story
    async def told(daemon: Daemon, client: Client) -> None:
        options = {key: S(str(files / file)), "log-file": S("new.log")}
        sentence = await refused(daemon, client, error, "a", options)
        assert key in sentence.lower()

    told(shared_daemon)


@pytest.mark.parametrize(
    "file",
    "folder fifo to-fifo dangling loop socket missing/x.log good/x.log /dev/null /dev/full".split(),
)
def test_a_bad_log_file(shared_daemon: Daemon, files: Path, file: str) -> None:
    @story
    async def told(daemon: Daemon, client: Client) -> None:
        options = {"log-file": S(str(files / file)), "firmware": S(str(files / "good"))}
        with pytest.raises(ErrorReply, match=r"Error\.Invalid(Image|Option)"):
            await client.call(*MANAGER, "StartVM", "sa{sv}", "a", options)
        await nothing_is_left(daemon, client)
        assert not (files / "nowhere").exists()

    told(shared_daemon)


@pytest.mark.parametrize(
    ("error", "key", "kind"),
    [
        ("InvalidImage", "firmware", "folder"),
        ("InvalidImage", "firmware", "empty"),
        ("InvalidImage", "firmware", "pipe"),
        ("InvalidImage", "firmware", "socket"),
        ("InvalidImage", "kernel", "elf-cut"),
        ("InvalidOption", "firmware", "good:O_WRONLY"),
        ("InvalidOption", "log-file", "good:O_RDONLY"),
        ("InvalidImage", "log-file", "pipe"),
        ("InvalidImage", "log-file", "folder"),
    ],
)
def test_a_bad_descriptor(
    shared_daemon: Daemon, opened: Callable[[str], int], error: str, key: str, kind: str
) -> None:
    @story
    async def told(daemon: Daemon, client: Client) -> None:
        sentence = await refused(daemon, client, error, "a", {key: Variant("h", 0)}, opened(kind))
        assert key in sentence.lower()

    told(shared_daemon)


@pytest.mark.parametrize(
    "options",
    [
        {"firmware": Variant("h", 0)},
        {"log-file": Variant("h", 7)},
        {"disks": Variant("aa{sv}", [{"path": Variant("h", 0)}])},
        {"net": Variant("aa{sv}", [{"tap": Variant("h", 0)}])},
    ],
)
def test_a_descriptor_that_did_not_come(shared_daemon: Daemon, options: Options) -> None:
    @story
    async def told(daemon: Daemon, client: Client) -> None:
        assert "descriptor" in await refused(daemon, client, "InvalidOption", "a", options)

    told(shared_daemon)


@pytest.mark.parametrize("letter", ["x", "ä", "\x01"])
def test_the_longest_command_line_is_not_bad(
    shared_daemon: Daemon, files: Path, letter: str
) -> None:
    @story
    async def told(daemon: Daemon, client: Client) -> None:
        cmdline = letter * (65535 // len(letter.encode()))
        options = {"firmware": S(str(files / "good")), "cmdline": S(cmdline)}
        path = await client.call(*MANAGER, "StartVM", "sa{sv}", "long", options)
        await client.wait_state(path, "stopped")
        await client.call(path, "org.chdebugd1.VM", "Remove")
        await nothing_is_left(daemon, client)

    told(shared_daemon)


def test_both_kernel_and_firmware(shared_daemon: Daemon, files: Path) -> None:
    @story
    async def told(daemon: Daemon, client: Client) -> None:
        both = {key: S(str(files / "good")) for key in ("kernel", "firmware")}
        assert "give one of them" in await refused(daemon, client, "InvalidOption", "a", both)

    told(shared_daemon)


def test_a_million_options(shared_daemon: Daemon) -> None:
    """As bytes: to make as many Variants would take this test a minute."""

    @story
    async def told(daemon: Daemon, client: Client) -> None:
        message = Message(
            destination="org.chdebugd1",
            path=MANAGER[0],
            interface=MANAGER[1],
            member="StartVM",
            signature="sa{sv}",
            body=["a", {"k": Variant("y", 0)}],
            serial=client.bus.next_serial(),
        )
        data = bytearray(message._marshall())
        entry = bytes(data[-10:])
        many = entry.ljust(16, b"\0") * 999_999 + entry
        data[-10:] = many
        data[4:8] = (8 + len(many) + 8).to_bytes(4, "little")
        data[-len(many) - 8 : -len(many)] = len(many).to_bytes(4, "little") + bytes(4)
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        client.bus._method_return_handlers[message.serial] = lambda reply, error: answer.set_result(
            reply
        )
        client.bus._writer.put(bytes(data))
        reply = await asyncio.wait_for(answer, TIMEOUT)
        assert reply.error_name == "org.chdebugd1.Error.LimitExceeded"
        await nothing_is_left(daemon, client)

    told(shared_daemon)


def test_a_second_vm_of_the_same_name(shared_daemon: Daemon, files: Path) -> None:
    @story
    async def told(daemon: Daemon, client: Client) -> None:
        sleeper = files / "sleeper"
        sleeper.write_bytes(rom(mark(1) + SLEEP))
        options = {"firmware": S(str(sleeper))}
        starts = (client.call(*MANAGER, "StartVM", "sa{sv}", "same", options) for _ in range(4))
        answers = await asyncio.gather(*starts, return_exceptions=True)
        [path] = [answer for answer in answers if isinstance(answer, str)]
        refusals = [answer for answer in answers if isinstance(answer, ErrorReply)]
        assert {each.name for each in refusals} == {"org.chdebugd1.Error.VMExists"}
        assert await client.get(path, "State") == "running"
        await client.call(path, "org.chdebugd1.VM", "Remove")
        await nothing_is_left(daemon, client)

    told(shared_daemon)


@pytest.mark.parametrize("delay", [0, 0.005, 0.05])
def test_a_caller_who_vanishes(shared_daemon: Daemon, files: Path, delay: float) -> None:
    """Its VM is there, whole, or not at all."""

    @story
    async def told(daemon: Daemon, client: Client) -> None:
        await client.call(*MANAGER, "ListVMs")
        before = daemon.fds
        caller = MessageBus(bus_address=daemon.address, negotiate_unix_fd=True)
        caller._writer = GuardedWriter(caller)
        await caller.connect()
        fd = os.open(files / "good", os.O_RDONLY)
        options = {"firmware": Variant("h", 0)}
        start = Message(
            destination="org.chdebugd1",
            path=MANAGER[0],
            interface=MANAGER[1],
            member="StartVM",
            signature="sa{sv}",
            body=["gone", options],
            unix_fds=[fd],
        )
        await caller.send(start)
        await asyncio.sleep(delay)
        caller.disconnect()
        await caller.wait_for_disconnect()
        for each in (caller._stream, caller._sock):
            each.close()
        os.close(fd)

        async def is_whole_or_gone() -> bool:
            vms = await client.call(*MANAGER, "ListVMs")
            for _, state, path in vms:
                if state == "stopped":
                    await client.call(path, "org.chdebugd1.VM", "Remove")
            return vms == [] and daemon.fds <= before

        await client.wait_for(is_whole_or_gone)
        await nothing_is_left(daemon, client)

    told(shared_daemon)
