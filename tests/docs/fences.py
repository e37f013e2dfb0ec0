"""The commands of README.md, by the place where a test runs them.

A block of shell commands has the place in a comment above it: `<!-- run: container -->`.
"""

from __future__ import annotations

import re
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"
BLOCK = re.compile(r"^(?:<!-- run: ([a-z-]+) -->\n)?```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OUTPUT = re.compile(r"^<!-- output of: (.+) -->\n```\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PLACES = ("build", "container", "collector", "guest", "lab", "lab-guest")


def blocks() -> list[tuple[str, str]]:
    """Place and text of each block, in order; the place is empty where none is named."""
    return BLOCK.findall(README.read_text())


def commands(place: str) -> list[str]:
    """All commands of a place, in order; a here-document belongs to the command before it."""
    found: list[str] = []
    end = ""
    for line in "".join(text for at, text in blocks() if at == place).splitlines():
        if end:
            found[-1] += f"\n{line}"
            end = "" if line == end else end
            continue
        found.append(line)
        if here := re.search(r"<<'(\w+)'", line):
            end = here[1]
    return found


def outputs() -> list[tuple[str, str]]:
    """Each command whose output README.md shows, and that output."""
    return OUTPUT.findall(README.read_text())


def shape(output: str) -> str:
    """What an output says beside its figures."""
    return " ".join(re.sub(r"(?<!0x)\b\d+(\.\d+)?", "N", output).split())
