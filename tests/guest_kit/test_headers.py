"""The headers: every assembler makes the same bytes, and they name what the host names."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from chdebugd.trace.event import COMPONENT_OF

MARK = b"\xb0\x41" + b"\xe6\x80"  # mov $0x41, %al; out %al, $0x80
HEADERS = ["chdebug.h", "chdebug-gas.inc", "chdebug-nasm.inc"]
FIRST_CODE = re.compile(r"CHDEBUG_(?!PORT|H)([A-Z]+),?\s+(0x[0-9a-f]+)")


@pytest.fixture
def include(kit: Path) -> Path:
    return kit / "usr/include"


@pytest.mark.parametrize("name", HEADERS)
def test_components_begin_where_the_host_says(include: Path, name: str) -> None:
    found = {
        (word.title(), int(code, 16)) for word, code in FIRST_CODE.findall(_text(include, name))
    }

    assert found == {(component, COMPONENT_OF.index(component)) for component in COMPONENT_OF}


def _text(include: Path, name: str) -> str:
    return (include / name).read_text()


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_gas_makes_two_instructions(include: Path, tmp_path: Path, bits: int) -> None:
    source, out = tmp_path / "mark.s", tmp_path / "mark.o"
    source.write_text(f'.code{bits}\n.include "chdebug-gas.inc"\nchdebug_mark 0x41\n')
    subprocess.run(["as", "--fatal-warnings", "-I", include, "-o", out, source], check=True)
    subprocess.run(["objcopy", "-O", "binary", "-j", ".text", out, tmp_path / "bin"], check=True)

    assert (tmp_path / "bin").read_bytes() == MARK


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_nasm_makes_two_instructions(include: Path, tmp_path: Path, bits: int) -> None:
    source = tmp_path / "mark.asm"
    source.write_text(f'bits {bits}\n%include "chdebug-nasm.inc"\nchdebug_mark 0x41\n')
    command: list[str | Path] = [
        "nasm",
        "-w+all",
        "-w+error",
        f"-I{include}/",
        "-f",
        "bin",
        "-o",
        tmp_path / "bin",
    ]
    subprocess.run([*command, source], check=True)

    assert (tmp_path / "bin").read_bytes() == MARK


@pytest.mark.parametrize("standard", ["gnu89", "c99", "gnu17"])
def test_c_makes_the_same_bytes(include: Path, tmp_path: Path, standard: str) -> None:
    source, out = tmp_path / "mark.c", tmp_path / "mark.o"
    source.write_text("#include <chdebug.h>\nvoid f(void) { chdebug_mark(CHDEBUG_KERNEL + 1); }\n")
    flags = ["-Wall", "-Wextra", "-Werror", f"-std={standard}", "-O2", "-fcf-protection=none"]
    subprocess.run(["gcc", *flags, f"-I{include}", "-c", "-o", out, source], check=True)
    subprocess.run(["objcopy", "-O", "binary", "-j", ".text", out, tmp_path / "bin"], check=True)

    code = (tmp_path / "bin").read_bytes()
    assert b"\xe6\x80" in code  # out %al, $0x80
    assert b"\x41" in code
