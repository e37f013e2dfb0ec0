"""Ports that take text, a byte at a time: the debug console 0xe9 and the firmware's 0x402."""

from __future__ import annotations

from collections.abc import Callable

PRESENT = 0xE9
"""What a read returns, so that a guest finds the port (Bochs, QEMU isa-debugcon)."""

Output = Callable[[bytes], None]


class TextPort:
    """Each write is text; wider writes bring their bytes in order."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def read(self, offset: int, size: int) -> int:
        """Here I am."""
        return PRESENT

    def write(self, offset: int, size: int, value: int) -> None:
        """Pass the bytes on."""
        self._output(value.to_bytes(size, "little"))
