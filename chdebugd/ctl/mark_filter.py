"""--component and --code: which marks to show."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from chdebugd.ctl.boots import Mark
from chdebugd.ctl.errors import UsageError
from chdebugd.trace.event import COMPONENT_OF, Component


@dataclass(frozen=True)
class MarkFilter:
    """Marks of these components and codes; an empty set lets all pass."""

    components: frozenset[str] = frozenset()
    """In lower case."""
    codes: frozenset[int] = frozenset()

    def takes(self, mark: Mark) -> bool:
        """Whether to show the mark."""
        if self.codes and mark.code not in self.codes:
            return False
        stages = {mark.stage.lower(), COMPONENT_OF[mark.code].lower()}
        return not self.components or bool(stages & self.components)


def add_filter(parser: argparse.ArgumentParser) -> None:
    """Add both options."""
    names = ", ".join(Component)
    parser.add_argument(
        "--component",
        action="append",
        default=[],
        metavar="NAME",
        help=f"only marks of {names}, or of a code map's stage; may come several times",
    )
    parser.add_argument(
        "--code", action="append", default=[], metavar="CODE", help="only marks of this code"
    )


def filter_of(given: argparse.Namespace) -> MarkFilter:
    """The filter that was asked for; raises UsageError."""
    codes = frozenset(parse_code(text) for text in given.code)
    return MarkFilter(frozenset(name.lower() for name in given.component), codes)


def parse_code(text: str) -> int:
    """A code from 0 to 255, decimal or 0x..; raises UsageError."""
    try:
        code = int(text, 0)
    except ValueError:
        code = -1
    if not 0 <= code <= 0xFF:
        raise UsageError(f"'{text}' is not a code; give a number from 0 to 255, or 0x00 to 0xff")
    return code
