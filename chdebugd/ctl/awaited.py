"""--wait: the mark that a user waits for, by its code, its name or its component."""

from __future__ import annotations

import sys

from chdebugd.ctl.mark_filter import parse_code
from chdebugd.trace.codemap import CodeMap, CodeMapError
from chdebugd.trace.event import COMPONENT_OF, Component

DEFAULT = Component.USERSPACE.value
"""What --wait awaits where it names nothing."""


def load_map(name: str | None) -> CodeMap | None:
    """The code map of a name; None where it has none, or none that is any good, and then says so.

    A bad map stops no VM, and the daemon may know one that is not here.
    """
    try:
        return CodeMap.load(name) if name else None
    except CodeMapError as error:
        print(f"chdebugctl: {error}; its names are not known here, ignoring", file=sys.stderr)
        return None


def awaited_codes(text: str, codes: CodeMap | None) -> frozenset[int]:
    """The codes of which any one will do; raises UsageError.

    `text` is a component, a stage or name of the code map, or a code.
    """
    wanted = text.lower()
    found = {code for code in range(256) if COMPONENT_OF[code].lower() == wanted}
    if codes:
        named = {**codes.names, **codes.stages}
        found |= {
            code
            for code in named
            if wanted in ((codes.name(code) or "").lower(), (codes.stage(code) or "").lower())
        }
    return frozenset(found or {parse_code(text)})
