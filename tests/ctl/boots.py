"""Boots made by hand."""

from __future__ import annotations

from chdebugd.ctl.boots import Boot, Mark, Phase
from chdebugd.trace.event import COMPONENT_OF

MS = 1_000_000  # nanoseconds


def boot(*marks: tuple[int, float], vm: str = "vm", number: int = 1, **more: object) -> Boot:
    """A boot with marks (code, milliseconds) behind host phases at 1, 2, 3 and 4 ms."""
    names = ("kvm-created", "memory-mapped", "image-loaded", "first-entry")
    phases = tuple(Phase(name, at * MS) for at, name in enumerate(names, 1))
    made = tuple(
        Mark(code, round(at * MS), seq, 0, "", COMPONENT_OF[code])
        for seq, (code, at) in enumerate(marks, 1)
    )
    known: dict[str, object] = {"start_nsec": 10**12, "realtime_nsec": 1_790_000_000 * 10**9}
    return Boot(vm, f"{number:032x}", made, phases, **(known | more))  # type: ignore[arg-type]
