"""Disk requests that a driver offers together: each does what it would do alone, in its order."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chdebugd.vmm.virtio.block import Disk
from tests.guests import SHUTDOWN
from tests.kvm.test_block import FLUSH, IN, IOERR, OK, OUT, Build, sector_of
from tests.virtio_driver import BUFFERS, F_EVENT_IDX, F_VERSION_1, NEXT, WRITE, BlockDriver

pytestmark = pytest.mark.kvm
SECTOR = 512
SECTORS = 64
QUEUE = 256
ROOM = 0x2000  # bytes of guest memory for each request
LABEL = "disk-batch"


class Request(NamedTuple):
    """`data` is the room to fill where it is a read."""

    kind: int
    sector: int = 0
    data: bytes = b""


@pytest.fixture
def image(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    path = tmp_path / "disk.raw"
    path.write_bytes(b"".join(map(sector_of, range(SECTORS))))
    fd = os.open(path, os.O_RDWR)
    yield path, fd
    os.close(fd)


@pytest.fixture
def driver(build: Build, image: tuple[Path, int]) -> BlockDriver:
    machine, _ = build(SHUTDOWN, disks=(Disk(image[1], "disk.raw", "batch"),))
    driver = BlockDriver(machine, 1)
    driver.start(F_VERSION_1 | F_EVENT_IDX, size=QUEUE)
    return driver


def together(driver: BlockDriver, requests: list[Request]) -> list[tuple[int, bytes]]:
    """Offer all before the device looks at one; status and data of each, in their order."""
    memory, [engine] = driver.machine.memory, driver.machine._engines
    engine.hold()
    for at, request in enumerate(requests):
        place, first = BUFFERS + at * ROOM, 3 * at
        memory.write(place, struct.pack("<IIQ", request.kind, 0, request.sector))
        memory.write(place + 0x100, request.data)
        flags = NEXT | (WRITE if request.kind == IN else 0)
        driver.describe(0, first, place, 16, NEXT, first + 1)
        driver.describe(0, first + 1, place + 0x100, len(request.data), flags, first + 2)
        driver.describe(0, first + 2, place + 16, 1, WRITE, 0)
        driver.offer(first, notify=False)
    driver.notify()
    engine.release()
    answers = []
    for at, request in enumerate(requests):
        head, length = driver.collect()
        assert head == 3 * at
        place = BUFFERS + at * ROOM
        status = memory.read(place + 16, 1)[0]
        came = memory.read(place + 0x100, len(request.data)) if request.kind == IN else b""
        assert length == 1 + (len(came) if status == OK else 0)
        answers.append((status, came))
    return answers


def reads_so_far(label: str) -> int:
    """System calls that read, by the device's thread."""
    for task in Path("/proc/self/task").iterdir():
        if (task / "comm").read_text().strip() == label:
            words = (task / "io").read_text().split()
            return int(words[words.index("syscr:") + 1])
    raise AssertionError(f"no thread has the name {label}")


def test_reads_that_follow_each_other_are_one_call(driver: BlockDriver) -> None:
    before = reads_so_far(LABEL)

    answers = together(driver, [Request(IN, at, bytes(SECTOR)) for at in range(SECTORS)])

    assert answers == [(OK, sector_of(at)) for at in range(SECTORS)]
    wakes = 3  # at most: of the queue's start, of the driver, and of the hold's end
    assert reads_so_far(LABEL) - before <= 1 + wakes


def test_writes_that_follow_each_other_arrive_before_the_flush_behind_them(
    driver: BlockDriver, image: tuple[Path, int]
) -> None:
    writes = [Request(OUT, at, bytes([at]) * SECTOR) for at in range(40)]

    answers = together(driver, [*writes, Request(FLUSH), Request(IN, 39, bytes(2 * SECTOR))])

    assert [status for status, _ in answers] == [OK] * 42
    assert answers[-1][1] == bytes([39]) * SECTOR + sector_of(40)
    assert image[0].read_bytes()[: 40 * SECTOR] == b"".join(write.data for write in writes)


def test_the_requests_before_a_failing_one_are_served(
    driver: BlockDriver, image: tuple[Path, int]
) -> None:
    os.truncate(image[0], 3 * SECTOR + 100)

    answers = together(driver, [Request(IN, at, bytes(SECTOR)) for at in range(6)])

    assert [status for status, _ in answers] == [OK] * 3 + [IOERR] * 3
    assert [came for _, came in answers[:3]] == [sector_of(at) for at in range(3)]
    assert driver.machine.failures[LABEL][0] == 3


def test_the_requests_behind_a_failing_one_are_served(
    driver: BlockDriver, image: tuple[Path, int]
) -> None:
    beyond = Request(IN, SECTORS, bytes(SECTOR))

    answers = together(
        driver, [Request(IN, 62, bytes(SECTOR)), beyond, Request(IN, 63, bytes(512))]
    )

    assert [status for status, _ in answers] == [OK, IOERR, OK]
    assert answers[2][1] == sector_of(63)


def do_alone(disk: bytearray, request: Request) -> tuple[int, bytes]:
    """What one request does to a disk."""
    start = request.sector * SECTOR
    end = start + len(request.data)
    if request.kind == FLUSH:
        return OK, b""
    if len(request.data) % SECTOR or end > len(disk):
        return IOERR, b""
    if request.kind == OUT:
        disk[start:end] = request.data
        return OK, b""
    return OK, bytes(disk[start:end])


requests = st.one_of(
    st.builds(
        Request,
        st.sampled_from([IN, OUT]),
        st.integers(0, SECTORS),
        st.builds(
            lambda byte, sectors, odd: bytes([byte]) * (SECTOR * sectors + odd),
            st.integers(0, 255),
            st.integers(0, 8),
            st.sampled_from([0, 0, 0, 0, 1]),
        ),
    ),
    st.just(Request(FLUSH)),
)


@settings(
    max_examples=150,
    deadline=None,
    # The machine serves all examples, each after a reset; a busy host draws them slowly.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(sets=st.lists(st.lists(requests, min_size=1, max_size=12), min_size=1, max_size=3))
def test_any_requests_do_together_what_they_do_alone(
    driver: BlockDriver, image: tuple[Path, int], sets: list[list[Request]]
) -> None:
    disk = bytearray(image[0].read_bytes())
    driver.start(F_VERSION_1 | F_EVENT_IDX, size=QUEUE)

    for each in sets:
        answers = together(driver, each)
        expected = [do_alone(disk, request) for request in each]
        assert [status for status, _ in answers] == [status for status, _ in expected]
        for (status, came), (_, data) in zip(answers, expected, strict=True):
            assert status != OK or came == data
    assert image[0].read_bytes() == disk
