"""Device models: arithmetic on offsets and a wire or two. No address, no bus, no KVM, no log."""

from __future__ import annotations

from typing import Protocol


class Wire(Protocol):
    """An interrupt line: held high while the device wants attention."""

    def __call__(self, level: bool, /) -> None:
        """Hold the line high or low."""
