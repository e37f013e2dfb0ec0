"""Disks: the virtio block device over real files, with good drivers and hostile ones."""

from __future__ import annotations

import errno
import os
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chdebugd.errors import InvalidImageError, LimitExceededError
from chdebugd.vmm.machine import Machine
from chdebugd.vmm.virtio.block import Disk
from tests.guests import SHUTDOWN
from tests.virtio_driver import (
    AVAIL,
    BUFFERS,
    F_EVENT_IDX,
    F_INDIRECT,
    F_VERSION_1,
    FEATURES_OK,
    INDIRECT,
    NEXT,
    RINGS,
    USED,
    WRITE,
    BlockDriver,
)

pytestmark = pytest.mark.kvm
Build = Callable[..., tuple[Machine, threading.Event]]

IN, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES = 0, 1, 4, 8, 11, 13
OK, IOERR, UNSUPP = 0, 1, 2
SECTORS = 2048


def sector_of(number: int) -> bytes:
    return struct.pack("<I", number) * 128


@pytest.fixture
def image(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    path = tmp_path / "disk.raw"
    path.write_bytes(b"".join(map(sector_of, range(SECTORS))))
    fd = os.open(path, os.O_RDWR)
    yield path, fd
    os.close(fd)


@pytest.fixture
def driver(build: Build, image: tuple[Path, int]) -> BlockDriver:
    """The machine is never run: the driver is the test."""
    machine, _ = build(SHUTDOWN, disks=(Disk(image[1], "disk.raw", "root"),))
    driver = BlockDriver(machine, 1)
    driver.start()
    return driver


def test_firmware_finds_a_modern_device_with_its_bar_below_4_gib(driver: BlockDriver) -> None:
    assert driver.config_read(0, 4) == 0x1042_1AF4
    assert driver.config_read(6, 2) & 0x10
    assert 0 < driver.bar < 1 << 32
    assert sorted(driver.capabilities) == [1, 2, 3, 4, 5]
    assert driver.offered & F_VERSION_1
    assert driver.common(0x18, 2) >= 16


def test_the_bar_tells_its_size_and_comes_back(driver: BlockDriver) -> None:
    before = driver.bar
    driver.config_write(0x10, 4, 0xFFFF_FFFF)
    assert driver.config_read(0x10, 4) == 0xFFFF_C000
    driver.config_write(0x10, 4, before)

    assert driver.block(IN, 3, room=512) == (OK, sector_of(3))


def test_the_capacity_is_in_sectors(driver: BlockDriver) -> None:
    assert driver.device_config(0, 8) == SECTORS


@pytest.mark.parametrize("features", [0, F_EVENT_IDX, F_INDIRECT, F_EVENT_IDX | F_INDIRECT])
def test_sectors_are_read_one_at_a_time(driver: BlockDriver, features: int) -> None:
    driver.start(F_VERSION_1 | features)
    for number in (*range(40), SECTORS - 1):
        assert driver.block(IN, number, room=512) == (OK, sector_of(number))


def test_what_is_written_and_flushed_is_in_the_file(
    driver: BlockDriver, image: tuple[Path, int]
) -> None:
    assert driver.block(OUT, 7, data=b"w" * 1024) == (OK, b"")
    assert driver.block(FLUSH) == (OK, b"")

    assert image[0].read_bytes()[7 * 512 : 9 * 512] == b"w" * 1024
    assert driver.block(IN, 7, room=1024) == (OK, b"w" * 1024)


def test_the_serial_number_is_the_disks_id(driver: BlockDriver) -> None:
    assert driver.block(GET_ID, room=20) == (OK, b"root".ljust(20, b"\0"))


@pytest.mark.parametrize("kind", [DISCARD, WRITE_ZEROES])
def test_cleared_sectors_read_zero(driver: BlockDriver, kind: int) -> None:
    range_ = struct.pack("<QII", 8, 16, 0)

    assert driver.block(kind, data=range_) == (OK, b"")

    assert driver.block(IN, 8, room=16 * 512) == (OK, bytes(16 * 512))
    assert driver.block(IN, 24, room=512) == (OK, sector_of(24))


@pytest.mark.parametrize(
    ("kind", "sector", "size"),
    [
        (IN, SECTORS, 512),
        (IN, SECTORS - 1, 1024),
        (IN, 2**64 - 1, 512),
        (IN, 2**55, 512),
        (IN, 0, 100),
        (OUT, SECTORS, 512),
        (OUT, 0, 511),
    ],
)
def test_what_is_not_on_the_disk_is_an_error(
    driver: BlockDriver, kind: int, sector: int, size: int
) -> None:
    data, room = (b"x" * size, 0) if kind == OUT else (b"", size)

    assert driver.block(kind, sector, data, room)[0] == IOERR
    assert driver.block(IN, 0, room=512) == (OK, sector_of(0))
    assert driver.machine.failures == {}


def test_a_range_beyond_the_disk_is_not_cleared(driver: BlockDriver) -> None:
    assert driver.block(DISCARD, data=struct.pack("<QII", SECTORS - 1, 2, 0))[0] == IOERR


def test_an_unknown_request_is_answered(driver: BlockDriver) -> None:
    assert driver.block(99)[0] == UNSUPP


def test_a_read_only_disk_takes_no_writes(build: Build, image: tuple[Path, int]) -> None:
    machine, _ = build(SHUTDOWN, disks=(Disk(image[1], "disk.raw", readonly=True),))
    driver = BlockDriver(machine, 1)
    driver.start()

    assert driver.offered & 1 << 5
    assert driver.block(OUT, 0, data=bytes(512))[0] == IOERR
    assert driver.block(DISCARD, data=struct.pack("<QII", 0, 1, 0))[0] == IOERR
    assert driver.block(IN, 0, room=512) == (OK, sector_of(0))


def test_a_file_cut_short_under_a_running_machine_is_an_error(
    driver: BlockDriver, image: tuple[Path, int]
) -> None:
    os.truncate(image[0], 512)

    assert driver.block(IN, 1, room=512)[0] == IOERR
    assert driver.block(IN, 0, room=512) == (OK, sector_of(0))


def test_a_full_file_system_is_an_error_to_the_guest_alone(build: Build) -> None:
    path = Path("/dev/full")
    fd = os.open(path, os.O_RDWR)
    disk = os.memfd_create("disk")
    os.truncate(disk, 1 << 20)
    machine, _ = build(SHUTDOWN, disks=(Disk(disk, "disk"),))
    os.dup2(fd, disk)  # every write fails with ENOSPC from now on
    driver = BlockDriver(machine, 1)
    driver.start()

    assert driver.block(OUT, 0, data=bytes(512))[0] == IOERR
    assert driver.block(OUT, 0, data=bytes(512))[0] == IOERR
    assert machine.failures == {"disk-": (2, errno.ENOSPC)}
    os.close(fd)
    machine.close()
    os.close(disk)


@pytest.mark.parametrize("size", [0, 511])
def test_a_disk_shorter_than_a_sector_is_refused(build: Build, size: int) -> None:
    fd = os.memfd_create("disk")
    os.truncate(fd, size)
    with pytest.raises(InvalidImageError, match=f"has {size} bytes"):
        build(SHUTDOWN, disks=(Disk(fd, "short"),))
    os.close(fd)


def test_a_directory_is_no_disk(build: Build, tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(InvalidImageError, match="not a regular file"):
        build(SHUTDOWN, disks=(Disk(fd, "directory"),))
    os.close(fd)


def test_each_disk_has_a_slot_of_its_own(build: Build, image: tuple[Path, int]) -> None:
    disks = tuple(Disk(image[1], "disk.raw", f"d{number}") for number in range(31))
    machine, _ = build(SHUTDOWN, disks=disks)

    for slot in (1, 16, 31):
        driver = BlockDriver(machine, slot)
        driver.start()
        assert driver.block(GET_ID, room=20)[1].rstrip(b"\0") == f"d{slot - 1}".encode()


def test_more_devices_than_slots_are_refused(build: Build, image: tuple[Path, int]) -> None:
    with pytest.raises(LimitExceededError, match="more than 31"):
        build(SHUTDOWN, disks=tuple(Disk(image[1], "disk.raw") for _ in range(32)))


def test_an_indirect_table_is_followed(driver: BlockDriver) -> None:
    driver.start(F_VERSION_1 | F_INDIRECT)
    memory, table = driver.machine.memory, BUFFERS + 0x8000
    memory.write(BUFFERS, struct.pack("<IIQ", IN, 0, 5))
    parts = ((BUFFERS, 16, NEXT), (BUFFERS + 0x1000, 512, NEXT | WRITE), (BUFFERS + 0x2000, 1, 2))
    for at, (address, length, flags) in enumerate(parts):
        memory.write(table + 16 * at, struct.pack("<QIHH", address, length, flags, at + 1))
    driver.describe(0, 0, table, 48, INDIRECT, 0)

    driver.offer(0)

    assert driver.collect() == (0, 513)
    assert memory.read(BUFFERS + 0x1000, 512) == sector_of(5)


# What a driver must not do


@pytest.mark.parametrize(
    "descriptors",
    [
        [(BUFFERS, 16, NEXT, 0)],
        [(BUFFERS, 16, NEXT, 99)],
        [(0xC000_0000, 16, NEXT, 1), (BUFFERS, 1, WRITE, 0)],
        [(BUFFERS, 0xFFFF_FFFF, NEXT, 1), (BUFFERS, 1, WRITE, 0)],
        [(0xFFFF_FFFF_FFFF_FFF0, 32, NEXT, 1), (BUFFERS, 1, WRITE, 0)],
        [(BUFFERS, 1, WRITE | NEXT, 1), (BUFFERS, 16, 0, 0)],
        [(BUFFERS, 16, 0, 0)],
        [(BUFFERS, 15, NEXT, 1), (BUFFERS, 1, WRITE, 0)],
        [(BUFFERS, 16, NEXT, 1), (BUFFERS, 0, WRITE, 0)],
        [(BUFFERS, 48, INDIRECT, 0)],
    ],
    ids=[
        "a loop",
        "a next outside of the table",
        "outside of memory",
        "4 GiB",
        "beyond the end of addresses",
        "written before read",
        "no status",
        "half a header",
        "an empty status",
        "indirect, which was not accepted",
    ],
)
def test_a_broken_chain_stops_the_device_until_a_reset(
    driver: BlockDriver, descriptors: list[tuple[int, int, int, int]]
) -> None:
    for at, descriptor in enumerate(descriptors):
        driver.describe(0, at, *descriptor)

    driver.offer(0)
    driver.wait_broken()

    driver.start()
    assert driver.block(IN, 1, room=512) == (OK, sector_of(1))


def test_an_avail_index_that_runs_away_stops_the_device(driver: BlockDriver) -> None:
    driver.machine.memory.write(RINGS + 0x4002, struct.pack("<H", 1000))
    driver.notify()

    driver.wait_broken()


@pytest.mark.parametrize("rings", [0xC000_0000, 0xFF_F000, 1 << 63, RINGS + 1])
def test_a_queue_outside_of_memory_stops_the_device(driver: BlockDriver, rings: int) -> None:
    driver.reset()
    driver.negotiate(F_VERSION_1)
    driver.set_up_queue(0, rings=rings)
    driver.set_common(0x14, 1, 0xF)

    driver.wait_broken()


@pytest.mark.parametrize("features", [0, F_VERSION_1 | 1 << 40, F_VERSION_1 | 1 << 13 << 20])
def test_features_that_were_not_offered_are_not_accepted(
    driver: BlockDriver, features: int
) -> None:
    driver.reset()

    assert not driver.negotiate(features) & FEATURES_OK


def test_a_reset_forgets_the_queues(driver: BlockDriver) -> None:
    driver.reset()
    driver.offer(0)

    assert driver.common(0x1C, 2) == 0
    assert driver.used_index() == 0
    driver.start()
    assert driver.block(IN, 2, room=512) == (OK, sector_of(2))


def test_a_bar_moved_onto_ram_answers_nowhere_and_leaves_ram_alone(driver: BlockDriver) -> None:
    before = driver.bar
    driver.config_write(0x10, 4, RINGS)

    assert driver.machine.mmio.read(RINGS, 4) == 0xFFFF_FFFF
    assert driver.machine.mmio.read(before, 4) == 0xFFFF_FFFF
    driver.config_write(0x10, 4, before)
    assert driver.block(IN, 2, room=512) == (OK, sector_of(2))


def test_a_bar_moved_onto_another_answers_nowhere(build: Build, image: tuple[Path, int]) -> None:
    machine, _ = build(SHUTDOWN, disks=(Disk(image[1], "a", "a"), Disk(image[1], "b", "b")))
    first, second = BlockDriver(machine, 1), BlockDriver(machine, 2)
    place = second.bar
    second.config_write(0x10, 4, first.bar)

    first.start()
    assert first.block(GET_ID, room=20)[1][:1] == b"a"
    second.config_write(0x10, 4, place)
    second.start()
    assert second.block(GET_ID, room=20)[1][:1] == b"b"


descriptor = st.tuples(
    st.sampled_from([0, BUFFERS, BUFFERS + 0x1000, 0xFF_FFF0, 0xC000_0000, 1 << 32, 2**64 - 1])
    | st.integers(0, 2**64 - 1),
    st.sampled_from([0, 1, 16, 512, 4096, 0xFFFF_FFFF]) | st.integers(0, 2**32 - 1),
    st.integers(0, 7),
    st.integers(0, 17),
)


@settings(
    max_examples=300,
    deadline=None,
    # The machine serves all examples, each after a reset; a busy host draws them slowly.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    table=st.lists(descriptor, min_size=1, max_size=16),
    header=st.tuples(st.integers(0, 16), st.integers(0, SECTORS)),
    heads=st.lists(st.integers(0, 20), min_size=1, max_size=8),
    features=st.sampled_from([0, F_INDIRECT, F_EVENT_IDX, F_INDIRECT | F_EVENT_IDX]),
)
def test_no_chain_does_more_than_stop_the_device(
    driver: BlockDriver,
    table: list[tuple[int, int, int, int]],
    header: tuple[int, int],
    heads: list[int],
    features: int,
) -> None:
    driver.start(F_VERSION_1 | features)
    driver.machine.memory.write(BUFFERS, struct.pack("<IIQ", header[0], 0, header[1]))
    for at, each in enumerate(table):
        driver.describe(0, at, *each)

    for head in heads:
        driver.offer(head)

    driver.start()
    driver.block(FLUSH)
    assert driver.status == 0xF


def test_small_firmware_reads_sector_by_sector_and_leaves_a_clean_device(
    driver: BlockDriver,
) -> None:
    """By whole 64-bit registers, 32-bit notifications, polling, and a flush with data in it."""
    driver.reset()
    driver.negotiate(F_VERSION_1)
    driver.set_up_queue(0, 16)
    for register, place in ((0x20, RINGS), (0x28, RINGS + AVAIL), (0x30, RINGS + USED)):
        driver.set_common(register, 8, place)
    driver.machine.memory.write(RINGS, bytes(0x10000))
    driver.set_common(0x14, 1, 0xF)
    notify = driver.capabilities[2].offset + 4 * driver.common(0x1E, 2)
    driver.notify = lambda index=0: driver.write(notify, 4, index)  # type: ignore[method-assign]

    assert driver.block(IN, 9, room=512) == (OK, sector_of(9))
    assert driver.block(FLUSH, data=bytes(512)) == (OK, b"")
    driver.reset()

    driver.start(F_VERSION_1 | F_INDIRECT | F_EVENT_IDX, size=256)
    assert driver.block(IN, 10, room=512) == (OK, sector_of(10))
