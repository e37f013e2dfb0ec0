"""--wait: the mark that a user waits for, by its code, its name or its component."""

from __future__ import annotations

from chdebugd.ctl.errors import UsageError
from chdebugd.ctl.mark_filter import parse_code
from chdebugd.trace.codemap import CodeMap, CodeMapError
from chdebugd.trace.event import COMPONENT_OF, Component

DEFAULT = Component.USERSPACE.value
"""What --wait awaits where it names nothing."""


def load_map(name: str | None) -> CodeMap | None:
    """The code map of a name, None without one; raises UsageError."""
    try:
        return CodeMap.load(name) if name else None
    except CodeMapError as error:
        raise UsageError(f"--map: {error}") from None


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
