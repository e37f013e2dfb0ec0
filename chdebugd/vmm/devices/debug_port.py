"""Reads of port 0x80. Its writes never come here: the C run loop takes them."""

from __future__ import annotations

from collections.abc import Callable


class DebugPort:
    """Returns the last byte written, as a POST card does."""

    def __init__(self, last_code: Callable[[], int]) -> None:
        self._last_code = last_code

    def read(self, offset: int, size: int) -> int:
        """The last code; it makes no event."""
        return self._last_code()

    def write(self, offset: int, size: int, value: int) -> None:
        """Only the bytes beside 0x80 of a wide write could come here; they are nobody's."""
