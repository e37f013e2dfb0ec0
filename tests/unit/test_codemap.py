"""Code maps from files, right and wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from chdebugd.trace.codemap import CodeMap, CodeMapError, Span

GOOD = """
title = "U-Boot"
[codes]
0x1e = "start"
"0x1f" = "console"
0x40 = { name = "kernel", stage = "Kernel" }
255 = "end"
[[spans]]
name = "firmware"
from = 0x1e
to = 0x40
"""


def load(folder: Path, text: str, name: str = "x") -> CodeMap:
    (folder / f"{name}.toml").write_text(text)
    return CodeMap.load(name, (folder,))


def test_a_map_names_codes_stages_and_spans(tmp_path: Path) -> None:
    codes = load(tmp_path, GOOD)

    assert codes.title == "U-Boot"
    assert [codes.name(code) for code in (0x1E, 0x1F, 0x40, 0xFF, 0)] == [
        "start",
        "console",
        "kernel",
        "end",
        None,
    ]
    assert (codes.stage(0x40), codes.stage(0x1E)) == ("Kernel", None)
    assert codes.spans == (Span("firmware", 0x1E, 0x40),)


def test_the_first_folder_wins(tmp_path: Path) -> None:
    for number in "12":
        (tmp_path / number).mkdir()
        (tmp_path / number / "x.toml").write_text(f'title = "{number}"')

    assert CodeMap.load("x", (tmp_path / "0", tmp_path / "1", tmp_path / "2")).title == "1"


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "chdebugd").rglob("*.toml")))
def test_the_shipped_maps_are_right(path: Path) -> None:
    assert CodeMap.read(path).names


@pytest.mark.parametrize(
    "text",
    [
        "codes = 3",
        "[codes",
        '[codes]\n256 = "x"',
        '[codes]\n-1 = "x"',
        '[codes]\nx = "x"',
        "[codes]\n1 = 2",
        '[codes]\n1 = ""',
        '[codes]\n1 = "a\\nb"',
        "[codes]\n1 = { stage = 'Kernel' }",
        "spans = 1",
        '[[spans]]\nname = "x"',
        '[[spans]]\nname = "x"\nfrom = 1\nto = 300',
    ],
)
def test_a_wrong_map_is_told_with_its_file(tmp_path: Path, text: str) -> None:
    with pytest.raises(CodeMapError, match=r"x\.toml"):
        load(tmp_path, text)


@pytest.mark.parametrize("name", ["", "../x", "a/b", "x" * 65, "a.b", "nowhere"])
def test_a_name_of_no_map_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(CodeMapError):
        CodeMap.load(name, (tmp_path,))
