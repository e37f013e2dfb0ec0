"""Plugs virtio devices into the slots of a machine's PCI bus."""

from __future__ import annotations

from contextlib import ExitStack

from chdebugd.vmm import layout
from chdebugd.vmm.bus import Bus
from chdebugd.vmm.devices.pci import PciConfig
from chdebugd.vmm.kvm import Vm
from chdebugd.vmm.memory import GuestMemory
from chdebugd.vmm.virtio.block import Disk, block
from chdebugd.vmm.virtio.device import VirtioDevice
from chdebugd.vmm.virtio.engine import Engine, SharedLine
from chdebugd.vmm.virtio.entropy import entropy
from chdebugd.vmm.virtio.function import VirtioFunction
from chdebugd.vmm.virtio.net import Tap, net
from chdebugd.vmm.virtio.window import PciWindow


class VirtioPlug:
    """Each device gets a slot, a BAR, a wire that it may share, and an engine that `stack` ends."""

    def __init__(
        self,
        vm: Vm,
        memory: GuestMemory,
        mmio: Bus,
        pci: PciConfig,
        stack: ExitStack,
        wake_fd: int,
    ) -> None:
        """Engines write eventfd `wake_fd` at their first failure."""
        self.engines: list[Engine] = []
        self._vm = vm
        self._memory = memory
        self._pci = pci
        self._stack = stack
        self._wake_fd = wake_fd
        self._window = PciWindow(vm, mmio, memory.low_end)
        self._lines = {gsi: SharedLine(vm.fd, gsi) for gsi in layout.PCI_GSIS}

    def add_disk(self, disk: Disk) -> None:
        """Raises InvalidImageError or LimitExceededError."""
        self._add(block(disk))

    def add_tap(self, tap: Tap) -> None:
        """Raises InvalidOptionError or LimitExceededError."""
        self._add(net(tap))

    def add_entropy(self) -> None:
        """Raises LimitExceededError."""
        self._add(entropy())

    def _add(self, device: VirtioDevice) -> None:
        slot = self._pci.next_slot()
        gsi = layout.pci_gsi(slot)
        line = self._lines[gsi]
        engine = Engine(device, self._vm.fd, self._memory.ram, line, self._wake_fd)
        self._stack.enter_context(engine)
        self.engines.append(engine)
        function = VirtioFunction(
            device, engine, gsi=gsi, bar=self._window.allocate(), moved=self._window.moved
        )
        self._pci.add(slot, function)
