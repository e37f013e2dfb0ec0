"""A source of random numbers, the host's getrandom(2) (virtio 1.2, section 5.4)."""

from __future__ import annotations

from chdebugd.vmm.virtio.device import VirtioDevice

ENCRYPTION_OTHER = 0x108000


def entropy() -> VirtioDevice:
    """The device; it needs nothing."""
    return VirtioDevice("rng", 4, ENCRYPTION_OTHER, "CHD_ENTROPY", n_queues=1)
