"""Images are untrusted: whatever is in them, they load or are refused by name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.conftest import FACTOR
from tests.guests import SHUTDOWN, rom
from tests.images import XEN_NOTE, bzimage, pvh_elf

pytestmark = pytest.mark.fuzz

INPUTS = {"kernel": 160_000, "firmware": 50_000}
LIMITS = ["-timeout=20", "-rss_limit_mb=1024", "-max_len=4096", "-print_final_stats=1"]
SEEDS = {
    "elf": pvh_elf(SHUTDOWN),
    "segments": pvh_elf(SHUTDOWN, extra=[(0x20_0000, 0x10_0000, b"data"), (0x40_0000, 64, b"")]),
    "note": pvh_elf(SHUTDOWN, note=b"\4\0\0\0\0\0\0\0\1\0\0\0GNU\0" + XEN_NOTE + b"\0\0\x10\0"),
    "bzimage": bzimage(b"\xf4" * 600),
    "large": bzimage(b"\xf4" * 600, setup_sectors=4, cmdline_size=255),
    "flat": rom(SHUTDOWN)[-512:],
}


@pytest.mark.parametrize("role", INPUTS)
def test_an_image_loads_or_is_refused_by_name(role: str, tmp_path: Path, seed: int) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for name, data in SEEDS.items():
        (corpus / name).write_bytes(data)
    inputs = INPUTS[role] * FACTOR
    command = [sys.executable, "-m", "tests.fuzz.image_target", role, f"-runs={inputs}"]
    command += [f"-seed={seed}", f"-artifact_prefix={tmp_path}/", *LIMITS, str(corpus)]

    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])

    assert done.returncode == 0, done.stderr[-4000:]
    assert f"stat::number_of_executed_units: {inputs}" in done.stderr
    assert os.listdir(tmp_path) == ["corpus"]
