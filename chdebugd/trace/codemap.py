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
from typing import NoReturn, Self

DIRS = (
    Path("/etc/chdebugd/codes"),
    Path("/usr/share/chdebugd/codes"),
    Path(__file__).with_name("codes"),
)
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
TEXT_MAX = 100  # characters of a name: it goes into each entry and each signal


class CodeMapError(ValueError):
    """A map that cannot be used; the sentence names file, line and reason."""


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
    source: str = ""
    """Where the codes are defined."""

    @classmethod
    def load(cls, name: str, dirs: tuple[Path, ...] = DIRS) -> Self:
        """The map called `name`; raises CodeMapError."""
        return cls.read(find_map(name, dirs))

    @classmethod
    def read(cls, path: Path) -> Self:
        """The map in a file; raises CodeMapError."""
        try:
            text = path.read_text(encoding="utf-8")
            data = tomllib.loads(text)
        except (OSError, ValueError, RecursionError) as error:
            raise CodeMapError(f"Code map {path}: {error}") from None
        return cls._from(_File(path, text, data))

    @classmethod
    def _from(cls, file: _File) -> Self:
        names: dict[int, str] = {}
        stages: dict[int, str] = {}
        for key, value in file.table("codes").items():
            code = file.code(key, key, f"'{key}'")
            if code in names:
                file.refuse(key, f"code {code:#x} comes twice")
            entry = value if isinstance(value, dict) else {"name": value}
            names[code] = file.text(key, entry.get("name"), f"code '{key}' needs a name")
            if "stage" in entry:
                stages[code] = file.text(key, entry["stage"], f"the stage of '{key}' must be")
        title, source = str(file.data.get("title", file.path.stem)), file.data.get("source", "")
        return cls(title, names, stages, _spans(file), str(source))

    def name(self, code: int) -> str | None:
        """What the code is called."""
        return self.names.get(code)

    def stage(self, code: int) -> str | None:
        """The stage the code belongs to, where the map knows better than the code's range."""
        return self.stages.get(code)


def find_map(name: str, dirs: tuple[Path, ...] = DIRS) -> Path:
    """The file of a map; raises CodeMapError where there is none."""
    if not NAME.fullmatch(name):
        raise CodeMapError(f"'{name[:80]}' is not the name of a code map")
    for directory in dirs:
        path = directory / f"{name}.toml"
        if path.exists():
            return path
    places = ", ".join(str(directory) for directory in dirs[:2])
    raise CodeMapError(f"There is no code map '{name}' in {places}")


def map_names(dirs: tuple[Path, ...] = DIRS) -> list[str]:
    """The names of all maps there are, good or bad."""
    found = {path.stem for directory in dirs for path in directory.glob("*.toml")}
    return sorted(name for name in found if NAME.fullmatch(name))


@dataclass(frozen=True)
class _File:
    """A map's file while it is read: knows in which line something stands."""

    path: Path
    source: str
    data: dict[str, object]

    def refuse(self, near: str, reason: str, count: int = 1) -> NoReturn:
        """Raise the error; it is in the line that begins with `near` for the `count`th time."""
        place = re.compile(rf"""["']?{re.escape(near)}["']?(?![0-9A-Za-z_-])""")
        for number, line in enumerate(self.source.splitlines(), 1):
            count -= place.match(line.strip()) is not None
            if not count:
                raise CodeMapError(f"Code map {self.path}, line {number}: {reason}")
        raise CodeMapError(f"Code map {self.path}: {reason}")

    def table(self, key: str) -> dict[str, object]:
        table = self.data.get(key, {})
        if not isinstance(table, dict):
            self.refuse(key, f"[{key}] must be a table")
        return table

    def code(self, near: str, value: object, what: str, count: int = 1) -> int:
        code = -1
        if type(value) is int:
            code = value
        elif isinstance(value, str):
            with contextlib.suppress(ValueError):
                code = int(value, 0)
        if not 0 <= code <= 0xFF:
            self.refuse(near, f"{what} is not a code from 0x00 to 0xff", count)
        return code

    def text(self, near: str, value: object, what: str, count: int = 1) -> str:
        if not isinstance(value, str) or not 0 < len(value) <= TEXT_MAX or not value.isprintable():
            self.refuse(near, f"{what} of 1 to {TEXT_MAX} printable characters", count)
        return value


def _spans(file: _File) -> tuple[Span, ...]:
    spans = file.data.get("spans", [])
    if not isinstance(spans, list):
        file.refuse("[spans]", "spans must be written as [[spans]]")
    return tuple(_span(file, each, at) for at, each in enumerate(spans, 1))


def _span(file: _File, each: object, count: int) -> Span:
    near = "[[spans]]"
    if not isinstance(each, dict) or not {"name", "from", "to"} <= set(each):
        file.refuse(near, "a span needs name, from and to", count)
    name = file.text(near, each["name"], "a span needs a name", count)
    start = file.code(near, each["from"], f"from of '{name}'", count)
    return Span(name, start, file.code(near, each["to"], f"to of '{name}'", count))
