"""Code maps: what a code means to one firmware, boot loader or kernel.

A map is a TOML file NAME.toml in one of DIRS, the first that has it:

    title = "U-Boot"
    source = "arch/x86/include/asm/post.h"

    [codes]
    0x1e = "start"
    0x40 = { name = "kernel", stage = "Kernel" }

    [[spans]]
    name = "firmware"
    from = 0x1e
    to = 0x40
"""

from __future__ import annotations

import contextlib
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Self

DIRS = (
    Path("/etc/chdebugd/codes"),
    Path("/usr/share/chdebugd/codes"),
    Path(__file__).with_name("codes"),
)
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class CodeMapError(ValueError):
    """A map that cannot be used; the sentence names file and reason."""


@dataclass(frozen=True)
class Span:
    """Two codes that make a step with a name of its own."""

    name: str
    start: int
    end: int


@dataclass(frozen=True)
class CodeMap:
    """Names and stages by code."""

    title: str
    names: dict[int, str]
    stages: dict[int, str]
    spans: tuple[Span, ...]

    @classmethod
    def load(cls, name: str, dirs: tuple[Path, ...] = DIRS) -> Self:
        """The map called `name`; raises CodeMapError."""
        if not NAME.fullmatch(name):
            raise CodeMapError(f"'{name[:80]}' is not the name of a code map")
        for directory in dirs:
            path = directory / f"{name}.toml"
            if path.exists():
                return cls.read(path)
        places = ", ".join(str(directory) for directory in dirs[:2])
        raise CodeMapError(f"There is no code map '{name}' in {places}")

    @classmethod
    def read(cls, path: Path) -> Self:
        """The map in a file; raises CodeMapError."""
        try:
            data = tomllib.loads(path.read_text())
        except (OSError, ValueError, RecursionError) as error:
            raise CodeMapError(f"Code map {path}: {error}") from None
        names, stages = {}, {}
        for key, value in _table(path, data, "codes").items():
            code = _code(path, f"'{key}'", key)
            entry = value if isinstance(value, dict) else {"name": value}
            names[code] = _text(path, key, entry.get("name"))
            if "stage" in entry:
                stages[code] = _text(path, key, entry["stage"])
        return cls(str(data.get("title", path.stem)), names, stages, _spans(path, data))

    def name(self, code: int) -> str | None:
        """What the code is called."""
        return self.names.get(code)

    def stage(self, code: int) -> str | None:
        """The stage the code belongs to, where the map knows better than the code's range."""
        return self.stages.get(code)


def _table(path: Path, data: dict[str, object], key: str) -> dict[str, object]:
    table = data.get(key, {})
    if not isinstance(table, dict):
        raise CodeMapError(f"Code map {path}: [{key}] must be a table")
    return table


def _code(path: Path, what: str, value: object) -> int:
    code = -1
    if type(value) is int:
        code = value
    elif isinstance(value, str):
        with contextlib.suppress(ValueError):
            code = int(value, 0)
    if not 0 <= code <= 0xFF:
        raise CodeMapError(f"Code map {path}: {what} is not a code from 0x00 to 0xff")
    return code


def _text(path: Path, key: str, value: object) -> str:
    if not isinstance(value, str) or not value or not value.isprintable():
        raise CodeMapError(f"Code map {path}: code '{key}' needs a name of printable characters")
    return value


def _spans(path: Path, data: dict[str, object]) -> tuple[Span, ...]:
    spans = data.get("spans", [])
    if not isinstance(spans, list):
        raise CodeMapError(f"Code map {path}: spans must be written as [[spans]]")
    return tuple(_span(path, each) for each in spans)


def _span(path: Path, each: object) -> Span:
    if not isinstance(each, dict) or not {"name", "from", "to"} <= set(each):
        raise CodeMapError(f"Code map {path}: a span needs name, from and to")
    name = _text(path, "span", each["name"])
    start = _code(path, f"from of '{name}'", each["from"])
    return Span(name, start, _code(path, f"to of '{name}'", each["to"]))
