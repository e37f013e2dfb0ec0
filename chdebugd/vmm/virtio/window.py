"""Where the memory BARs of PCI functions answer, and how their notifications reach them."""

from __future__ import annotations

import contextlib

from chdebugd.vmm import layout
from chdebugd.vmm.bus import Bus
from chdebugd.vmm.kvm import Vm
from chdebugd.vmm.virtio.function import BAR_SIZE, VirtioFunction


class PciWindow:
    """Guest physical addresses between RAM and the IOAPIC.

    A guest may move a BAR wherever it likes; it answers only where nothing else is, never on RAM.
    """

    def __init__(self, vm: Vm, mmio: Bus, low_end: int) -> None:
        """`low_end` is the first address after RAM below the hole."""
        self._vm = vm
        self._mmio = mmio
        self._low_end = max(low_end, layout.HIGH_RAM_START)
        self._next = layout.PCI_WINDOW_START
        self._listening: dict[VirtioFunction, int] = {}

    def allocate(self) -> int:
        """An address for one more BAR."""
        address, self._next = self._next, self._next + BAR_SIZE
        return address

    def moved(self, function: VirtioFunction, address: int | None) -> None:
        """Let the BAR of `function` answer at `address`, or nowhere. From any thread."""
        self._listen(function, None)
        self._mmio.remove(function)
        if address is None or not self._low_end <= address <= layout.PCI_WINDOW_END - BAR_SIZE:
            return
        try:
            self._mmio.insert(function, address, BAR_SIZE)
        except ValueError:
            return  # another function is there
        self._listen(function, address)

    def _listen(self, function: VirtioFunction, address: int | None) -> None:
        """KVM writes the engine's eventfd itself; where it cannot, the bus does it."""
        before = self._listening.pop(function, None)
        for offset in function.notify_offsets:
            if before is not None:
                with contextlib.suppress(OSError):
                    self._vm.ioeventfd(before + offset, function.engine.kick_fd, attach=False)
            if address is not None:
                with contextlib.suppress(OSError):
                    self._vm.ioeventfd(address + offset, function.engine.kick_fd, attach=True)
        if address is not None:
            self._listening[function] = address
