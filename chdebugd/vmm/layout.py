"""Every address, port and GSI of the machine, with its unit and its source."""

from __future__ import annotations

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

# Guest physical addresses. RAM is 0-3 GiB and from 4 GiB on; the hole is for devices.
HOLE_START = 3 * GIB
HOLE_END = 4 * GIB
PCI_WINDOW_START = 0xC000_0000
PCI_WINDOW_END = 0xFEC0_0000  # firmware puts BARs right below the IOAPIC
IOAPIC_ADDRESS = 0xFEC0_0000  # Intel 82093AA
LAPIC_ADDRESS = 0xFEE0_0000  # Intel SDM 3A, 11.4.1
IDENTITY_MAP_ADDRESS = 0xFEFF_C000  # 1 page; KVM api.rst, KVM_SET_IDENTITY_MAP_ADDR
TSS_ADDRESS = 0xFEFF_D000  # 3 pages; KVM api.rst, KVM_SET_TSS_ADDR
ROM_MAX_SIZE = 16 * MIB  # from 0xff000000 on, above the TSS pages
BIOS_COPY_START = 0xE0000  # the ROM's last 128 KiB, writable, as a chipset shadows them
BIOS_COPY_END = 0x100000

# Low memory that boot protocols share out.
GDT_ADDRESS = 0x500
IDT_ADDRESS = 0x520
START_INFO_ADDRESS = 0x6000  # PVH hvm_start_info
MODLIST_ADDRESS = 0x6040
MEMMAP_ADDRESS = 0x6080
ZERO_PAGE_ADDRESS = 0x7000  # Linux boot_params, boot.rst
BOOT_STACK = 0x8FF0
CMDLINE_ADDRESS = 0x20000
CMDLINE_MAX = 64 * KIB
LOW_RAM_END = 0xA0000  # then the VGA hole and the BIOS area
ACPI_ADDRESS = 0xE0000  # RSDP is searched for on 16-byte steps from here
ACPI_END = 0xF0000
HIGH_RAM_START = 0x100000

# Ports.
I8042_PORT = 0x60  # data; the command port is 4 further on, 0x61 is the kernel's PIT's
RTC_INDEX = 0x70
RTC_CENTURY = 0x32  # an index, not a port
DEBUG_PORT = 0x80
PORT_92 = 0x92
DEBUG_CONSOLE = 0xE9
COM1_PORT = 0x3F8  # 8 ports
FIRMWARE_DEBUG = 0x402
FW_CFG_PORT = 0x510  # 2 ports; QEMU docs/specs/fw_cfg.rst
SLEEP_PORT = 0x600  # 1 resets, 0x34 is S5; as cloud-hypervisor has it
PM_TIMER_PORT = 0x608  # 4 ports, 3.579545 MHz (ACPI 4.8.3.3)
PM1_EVENT_PORT = 0x610  # status and enable, 2 ports each (ACPI 4.8.3.1)
PM1_CONTROL_PORT = 0x614  # 2 ports (ACPI 4.8.3.2)
PCI_ADDRESS_PORT = 0xCF8  # 4 ports
PCI_DATA_PORT = 0xCFC  # 4 ports

IOAPIC_ID = 0  # what the kernel's IOAPIC says
PCI_SLOTS = 32

# GSIs.
PIT_GSI = 2  # ISA IRQ 0, as every PC has it
KEYBOARD_GSI = 1
COM1_GSI = 4
SCI_GSI = 9
PCI_GSIS = (10, 11)  # what INTx pins share


def pci_gsi(slot: int) -> int:
    """The GSI of pin INTA of a slot of PCI bus 0."""
    return PCI_GSIS[slot % len(PCI_GSIS)]
