"""The example firmware, as the package ships it, on the real /dev/kvm."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from chdebugd.vmm.outcome import Result
from tests.kvm.conftest import Run, build, image_of, kvm, ring, run, wakers  # noqa: F401 - fixtures

pytestmark = pytest.mark.kvm


def test_the_example_makes_its_marks_and_powers_off(
    run: Callable[..., Run],  # noqa: F811
    lib: Path,
) -> None:
    rom = (lib / "example.rom").read_bytes()

    result = run(image_of(rom))

    assert len(rom) == 64 << 10
    assert result.codes == [0x00, 0x01, 0x02, 0x1F]
    assert result.outcome.result == Result.SHUTDOWN
