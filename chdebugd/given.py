"""What a caller gave: variants by key, as they came, and how one after another is taken out.

Knows D-Bus types and no option; options.py says which there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from chdebugd.control import FileRole, check_figure
from chdebugd.errors import InvalidOptionError

BITS = {"u": 32, "t": 64, "h": 32}


@dataclass(frozen=True)
class Value:
    """A variant as it came: its D-Bus signature and what is in it."""

    signature: str
    value: Any


@dataclass(frozen=True)
class FileOption:
    """A file that an option names: a path, or the index of a descriptor of the message."""

    role: FileRole
    path: str | None
    fd_index: int = -1


def given_to_json(given: dict[str, Value]) -> dict[str, Any]:
    """In JSON's types."""
    return {
        key: [each.signature, [given_to_json(item) for item in each.value]]
        if each.signature == "aa{sv}"
        else [each.signature, each.value]
        for key, each in given.items()
    }


def given_from_json(data: dict[str, Any]) -> dict[str, Value]:
    """What `given_to_json` made, back again; raises ValueError for what D-Bus would not take."""
    return {
        key: Value(signature, [given_from_json(item) for item in value])
        if signature == "aa{sv}"
        else Value(signature, _checked(signature, value))
        for key, (signature, value) in data.items()
    }


def _checked(signature: str, value: Any) -> Any:
    if signature in BITS:
        check_figure(value, BITS[signature])
    elif not isinstance(value, bool if signature == "b" else str):
        raise ValueError(f"It is no '{signature}'")
    return value


class Parser:
    """Takes one option after the other out of what was given.

    What it takes amiss raises InvalidOptionError with the key in its sentence.
    """

    def __init__(self, given: dict[str, Value], prefix: str = "") -> None:
        self._left = dict(given)
        self._prefix = prefix

    def error(self, key: str, what: str) -> InvalidOptionError:
        """What to raise for `key`, with all that leads to it."""
        return InvalidOptionError(f"Option '{self._prefix}{key}' {what}")

    def take(self, key: str, signature: str, default: Any) -> Any:
        """The value of `key`, of this D-Bus type."""
        if key not in self._left:
            return default
        value = self._left.pop(key)
        if value.signature != signature:
            raise self.error(key, f"has type '{value.signature}'; it must have type '{signature}'")
        return value.value

    def choice(self, key: str, default: str, choices: tuple[str, ...]) -> str:
        """One of these words."""
        value = str(self.take(key, "s", default))
        if value not in choices:
            raise self.error(key, f"is '{value}'; it must be one of {', '.join(choices)}")
        return value

    def is_descriptor(self, key: str) -> bool:
        """Whether `key` is given, and as an open file."""
        return key in self._left and self._left[key].signature == "h"

    def file(self, key: str, role: FileRole) -> FileOption | None:
        """A path or a descriptor."""
        if key not in self._left:
            return None
        value = self._left.pop(key)
        if value.signature == "h":
            return FileOption(role, None, int(value.value))
        if value.signature != "s":
            raise self.error(
                key, f"has type '{value.signature}'; give a path 's' or descriptor 'h'"
            )
        if not value.value or "\0" in value.value:
            raise self.error(key, "is not a path; name a file")
        return FileOption(_named(role, value.value), value.value)

    def finish(self, known: str) -> None:
        """Whatever nobody took is unknown."""
        for key in self._left:
            raise self.error(key, f"is unknown; known are {known}")


def _named(role: FileRole, name: str) -> FileRole:
    return FileRole(role.role, name, role.readonly, role.id, role.mac)
