"""A kernel of our own that starts all processors, and each leaves its own marks."""

from __future__ import annotations

from tests.images import LOAD_ADDRESS, pvh_elf

COUNT_ADDRESS = 0x9000
FIRST_CODE = 0x80  # the mark of APIC id 0; id n writes this plus n

AP = (
    b"\x31\xc0"  # xor %ax, %ax
    b"\x8e\xd8"  # mov %ax, %ds
    b"\x66\xb8\x01\x00\x00\x00"  # mov $1, %eax
    b"\x0f\xa2"  # cpuid
    b"\x66\xc1\xeb\x18"  # shr $24, %ebx        the initial APIC id
    b"\x88\xd8"  # mov %bl, %al
    b"\x04\x80"  # add $0x80, %al
    b"\xe6\x80"  # out %al, $0x80
    b"\xf0\xfe\x06\x00\x90"  # lock incb 0x9000
    b"\xfa"  # cli
    b"\xf4"  # 1: hlt
    b"\xeb\xfd"  # jmp 1b
)


def icr(command: int) -> bytes:
    """Write the interrupt command register: to all but self."""
    return b"\xc7\x05\x00\x03\xe0\xfe" + command.to_bytes(4, "little")  # movl $command, 0xfee00300


def smp_kernel(n_cpus: int) -> bytes:
    """Starts the other processors by INIT and SIPI, waits for all, and switches off."""
    body = (
        b"\xbf\x00\x80\x00\x00"  # mov $0x8000, %edi
        b"\xb9"
        + len(AP).to_bytes(4, "little")  # mov $size, %ecx
        + b"\xf3\xa4"  # rep movsb
        b"\xb0\x80"  # mov $0x80, %al
        b"\xe6\x80"  # out %al, $0x80
        + icr(0x000C4500)  # INIT, assert, all but self
        + icr(0x000C4608)  # SIPI, page 8
        + b"\x80\x3d\x00\x90\x00\x00"
        + bytes([n_cpus - 1])  # 1: cmpb $others, 0x9000
        + b"\x75\xf7"  # jne 1b
        b"\x66\xba\x00\x06"  # mov $0x600, %dx
        b"\xb0\x34"  # mov $0x34, %al
        b"\xee"  # out %al, %dx
        b"\xf4"  # hlt
    )
    code = b"\xbe" + (LOAD_ADDRESS + 5 + len(body)).to_bytes(4, "little") + body  # mov $ap, %esi
    return pvh_elf(code + AP)
