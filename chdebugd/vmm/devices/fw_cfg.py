"""The firmware configuration device: named blobs by a selector and a data port.

QEMU's docs/specs/fw_cfg.rst, the traditional interface; SeaBIOS and U-Boot speak it.
"""

from __future__ import annotations

from collections.abc import Callable

Items = dict[int, bytes]


class FwCfg:
    """Selector at offset 0 (16 bits), data at offset 1; data beyond an item's end reads 0."""

    SELECTOR, DATA = 0, 1

    def __init__(self, make_items: Callable[[], Items]) -> None:
        """`make_items` is called once a guest selects something: most guests never do."""
        self._make_items = make_items
        self._items: Items | None = None
        self._selected = b""
        self._at = 0

    def read(self, offset: int, size: int) -> int:
        """The next byte of the selected item."""
        if offset != self.DATA:
            return 0
        at, self._at = self._at, self._at + 1
        return self._selected[at] if at < len(self._selected) else 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Select an item; nothing can be changed."""
        if offset == self.SELECTOR and size == 2:
            if self._items is None:
                self._items = self._make_items()
            self._selected = self._items.get(value, b"")
            self._at = 0
