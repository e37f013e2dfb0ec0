"""Reading images that lie about themselves."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from chdebugd.errors import InvalidImageError
from chdebugd.vmm.boot.image import Image


@pytest.fixture
def image() -> Iterator[Image]:
    fd = os.memfd_create("image")
    os.write(fd, b"12345678")
    yield Image("kernel", "vmlinux", fd)
    os.close(fd)


@pytest.mark.parametrize("offset", [6, 8, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_a_part_that_the_file_does_not_have_is_refused_by_name(image: Image, offset: int) -> None:
    with pytest.raises(InvalidImageError, match="Kernel 'vmlinux' is truncated"):
        image.read(offset, 4)


def test_the_last_bytes_can_be_read(image: Image) -> None:
    assert image.read(4, 4) == b"5678"
