"""What a ring counts over all boots of one VM process, as D-Bus shows it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Self

from chdebugd.control import check_figure
from chdebugd.trace.ring import Reader, Ring

BOOT_ID = re.compile("([0-9a-f]{32})?")
BITS: Mapping[str, int] = MappingProxyType({"last_code": 8, "boots": 32})


class Counts(NamedTuple):
    """Times in nanoseconds; `skipped` counts signals, the others what the guest did."""

    boot_id: str = ""
    start_nsec: int = 0
    events: int = 0
    dropped: int = 0
    skipped: int = 0
    stalled_nsec: int = 0
    last_code: int = 0
    boots: int = 0

    @classmethod
    def of(cls, ring: Ring) -> Self:
        """What `ring` says now."""
        return cls(
            ring.boot_id(ring.boot) if ring.boot else "",
            ring.start_nsec,
            ring.head,
            ring.dropped,
            ring.skip(),
            ring.stalled_nsec,
            ring.last_code,
            ring.boot,
        )

    @classmethod
    def at_the_end(cls, ring: Ring) -> Self:
        """What to keep of a ring that nobody will read: its unsent signals are skipped ones."""
        counts = cls.of(ring)
        unsent = max(ring.head - ring.position(Reader.SIGNALS), 0)
        return counts._replace(skipped=counts.skipped + unsent)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """From what `asdict` made, perhaps of another version; raises ValueError for all else."""
        counts = cls(**{name: data[name] for name in cls._fields if name in data})
        if not isinstance(counts.boot_id, str) or not BOOT_ID.fullmatch(counts.boot_id):
            raise ValueError("A boot's id has 32 hexadecimal digits")
        for name, figure in counts._asdict().items():
            if name != "boot_id":
                check_figure(figure, BITS.get(name, 64))
        return counts
