"""What makes one kind of virtio device: its identity, its offers and its configuration bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

F_INDIRECT_DESC = 1 << 28
F_EVENT_IDX = 1 << 29
F_VERSION_1 = 1 << 32
RING_FEATURES = F_INDIRECT_DESC | F_EVENT_IDX | F_VERSION_1


class VirtioDevice(NamedTuple):
    """One device before it is plugged in."""

    label: str
    """The name of its thread, at most 15 bytes."""
    device_id: int
    """Virtio 1.2, chapter 5; the PCI device id is 0x1040 more."""
    class_code: int
    """PCI class, subclass and interface."""
    engine_kind: str
    """The engine's name for it: CHD_BLOCK, CHD_ENTROPY or CHD_NET."""
    n_queues: int
    features: int = 0
    """Offers beyond RING_FEATURES."""
    config: bytes = b""
    prepare: Callable[[Any], None] = lambda _: None
    """Fills in the engine's part for this kind, `struct chd_engine`."""
