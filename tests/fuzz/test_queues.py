"""The data path of virtio devices in C, under sanitizers, against a hostile driver."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.fuzz.conftest import FACTOR

pytestmark = pytest.mark.fuzz

ROUNDS = 200_000 * FACTOR
ATTACK = Path(__file__).with_name("queue_attack.c")
CHDEBUGD = Path(__file__).parents[2] / "chdebugd"
INCLUDES = [f"-I{CHDEBUGD / part}" for part in ("vmm/virtio", "vmm", "trace")]
CFLAGS = ["-std=gnu11", "-g", "-O1", "-Wall", "-Wextra", "-Werror", "-Wno-unused-function"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover"]


def test_no_table_leads_beside_guest_memory(tmp_path: Path, seed: int) -> None:
    program = tmp_path / "queue_attack"
    command = ["gcc", *CFLAGS, *SANITIZERS, *INCLUDES, str(ATTACK), "-pthread", "-lseccomp"]
    subprocess.run([*command, "-o", str(program)], check=True)

    attack = subprocess.run(
        [str(program), str(seed), str(ROUNDS)], capture_output=True, text=True, check=False
    )

    assert (attack.returncode, attack.stderr) == (0, "")
    assert int(attack.stdout) > ROUNDS // 4, "too few chains got as far as being served"
