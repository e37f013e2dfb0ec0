"""Signals: how many a second, and how soon after the mark."""

from __future__ import annotations

import asyncio
import socket
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from tests.bench import peer, qemu
from tests.bench.marks import BURST, names
from tests.bench.report import Figure, compare, measure, percentile
from tests.bench.stage import Stage, stage
from tests.bench.sustained import NO_EVENTS
from tests.guests import SHUTDOWN, burst, rom, ticks

TICKS = 300  # marks, one each 10 ms
ECHOES = 300


async def signals(repeat: int) -> list[Figure]:
    """A full ring to one subscriber, from the first signal to the last; none is skipped."""
    image = peer.rom_file(rom(burst(BURST) + SHUTDOWN), "burst")
    ours, theirs = [], []
    async with stage() as playing:
        for _ in range(repeat):
            theirs.append(await _emitted(playing.address))
            ours.append(await _signalled(playing, image))
    loop = "loop of sd_bus_emit_signal"
    rate = measure("signals", "signals received", ours, "signals/s", at_least=20_000)
    what = "the same beside the peer"
    return [rate, compare("signals", what, ours, theirs, "signals/s", loop, at_least=0.5)]


def _rate(notes: list[peer.Note], count: int) -> float:
    assert [note.seq for note in notes] == list(range(1, count + 1))
    return (count - 1) / (notes[-1].handled_nsec - notes[0].handled_nsec) * 1e9


async def _emitted(address: str) -> float:
    with peer.subscriber(address, "/org/chdebugd1/vm/peer", BURST) as subscriber:
        command = [peer.program("signal_loop"), address, str(BURST)]
        await asyncio.to_thread(subprocess.run, command, check=True)
        return _rate(await asyncio.to_thread(subscriber.notes), BURST)


async def _signalled(playing: Stage, image: Path) -> float:
    name = next(names)
    path = f"/org/chdebugd1/vm/{name}"
    with peer.subscriber(playing.address, path, BURST) as subscriber:
        await playing.start_vm(name, image, log_level=NO_EVENTS)
        notes = await asyncio.to_thread(subscriber.notes)
    await playing.wait_ended(path)
    await playing.call(path, "org.chdebugd1.VM", "Remove")
    return _rate(notes, BURST)


async def latency(repeat: int) -> list[Figure]:
    """From the stamp of a mark to the handler of a subscriber, one mark each 10 ms."""
    image = peer.rom_file(rom(ticks(TICKS)), "ticks")
    medians, nineties, theirs = [], [], []
    async with stage() as playing:
        for _ in range(repeat):
            usec = await _latencies(playing, image)
            medians.append(percentile(usec, 50))
            nineties.append(percentile(usec, 99))
            theirs.append(statistics.median(await asyncio.to_thread(_qemu_echoes)))
    what = "mark to a subscriber's handler"
    half = "QEMU chardev socket, half a round trip"
    return [
        measure("latency", f"{what}, median", medians, "us", at_most=500),
        measure("latency", f"{what}, 99th percentile", nineties, "us", at_most=3000),
        compare("latency", f"{what}, beside QEMU", medians, theirs, "us", half),
    ]


async def _latencies(playing: Stage, image: Path) -> list[float]:
    name = next(names)
    path = f"/org/chdebugd1/vm/{name}"
    with peer.subscriber(playing.address, path, TICKS) as subscriber:
        await playing.start_vm(name, image)
        start_nsec = 1000 * await playing.get(path, "StartTimestampMonotonic")
        notes = await asyncio.to_thread(subscriber.notes)
    await playing.wait_ended(path)
    assert len(notes) == TICKS
    return [(note.handled_nsec - start_nsec - note.elapsed_nsec) / 1000 for note in notes]


def _qemu_echoes() -> list[float]:
    """A byte to the guest's serial port and back again, over a chardev socket, halved.

    Only QEMU knows when its guest wrote; so both ways are timed.
    """
    image = peer.rom_file(qemu.flash_image(rom(ECHO)), "echo")
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{directory}/serial")
        listener.listen()
        command = qemu.serial_command(image, f"socket,path={directory}/serial")
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            serial, _ = listener.accept()
            with serial:
                times = [_echo(serial) for _ in range(ECHOES)]
            process.kill()
    return times


def _echo(serial: socket.socket) -> float:
    time.sleep(0.002)
    start = time.monotonic_ns()
    serial.sendall(b"e")
    assert serial.recv(1) == b"e"
    return (time.monotonic_ns() - start) / 2000


ECHO = (
    b"\xba\xfd\x03"  # 1: mov $0x3fd, %dx     (line status)
    b"\xec"  # in %dx, %al
    b"\xa8\x01"  # test $1, %al                 (a byte came)
    b"\x74\xf8"  # jz 1b
    b"\xba\xf8\x03"  # mov $0x3f8, %dx
    b"\xec"  # in %dx, %al
    b"\xee"  # out %al, %dx
    b"\xeb\xf1"  # jmp 1b
)
