"""Guests in machine code, the assembly beside each byte, as flat 4 KiB ROMs."""

from __future__ import annotations

ROM_SIZE = 4096
RESET_VECTOR = 0xFF0
SHUTDOWN = (
    b"\xba\x00\x06"  # mov $0x600, %dx
    b"\xb0\x34"  # mov $0x34, %al
    b"\xee"  # out %al, %dx
    b"\xf4"  # hlt
)
RESET = (
    b"\xba\x00\x06"  # mov $0x600, %dx
    b"\xb0\x01"  # mov $1, %al
    b"\xee"  # out %al, %dx
    b"\xf4"  # hlt
)
CLI_HLT = (
    b"\xfa"  # cli
    b"\xf4"  # hlt
)


def rom(code: bytes) -> bytes:
    """A ROM that runs `code` at f000:f000 in real mode, data segment at the ROM's start."""
    prologue = (
        b"\x8c\xc8"  # mov %cs, %ax        (the base stays 0xffff0000 for CS only)
        b"\x31\xc0"  # xor %ax, %ax
        b"\x8e\xd8"  # mov %ax, %ds
        b"\x8e\xc0"  # mov %ax, %es
    )
    jump = b"\xe9\x0d\xf0"  # jmp f000:f000
    body = prologue + code
    assert len(body) <= RESET_VECTOR
    return body.ljust(RESET_VECTOR, b"\xf4") + jump.ljust(ROM_SIZE - RESET_VECTOR, b"\xf4")


def mark(*codes: int) -> bytes:
    """Write each code to port 0x80."""
    return b"".join(
        bytes([0xB0, code])  # mov $code, %al
        + b"\xe6\x80"  # out %al, $0x80
        for code in codes
    )


def burst(count: int, code: int = 0x40) -> bytes:
    """Write `code` to port 0x80 `count` times in a tight loop."""
    return (
        b"\x66\xb9"
        + count.to_bytes(4, "little")  # mov $count, %ecx
        + bytes([0xB0, code])  # mov $code, %al
        + b"\xe6\x80"  # 1: out %al, $0x80
        b"\x66\x49"  # dec %ecx
        b"\x75\xfa"  # jnz 1b
    )


def ticks(count: int) -> bytes:
    """Write 0x40 to port 0x80 at each tick of the PIT, one each 10 ms, `count` times."""
    handler_at = 0x200
    start = (
        b"\xc7\x06\x20\x00"
        + (0xF000 + handler_at).to_bytes(2, "little")  # movw $handler, 0x20  (vector 8: IRQ 0)
        + b"\xc7\x06\x22\x00\x00\xf0"  # movw $0xf000, 0x22
        b"\xbc\x00\x10"  # mov $0x1000, %sp          (%ss is 0 from reset)
        b"\xb0\x11\xe6\x20"  # mov $0x11, %al; out %al, $0x20     (PIC: ICW1)
        b"\xb0\x08\xe6\x21"  # mov $8, %al; out %al, $0x21        (first vector)
        b"\xb0\x04\xe6\x21"  # mov $4, %al; out %al, $0x21
        b"\xb0\x01\xe6\x21"  # mov $1, %al; out %al, $0x21
        b"\xb0\xfe\xe6\x21"  # mov $0xfe, %al; out %al, $0x21     (only IRQ 0)
        b"\xb0\x34\xe6\x43"  # mov $0x34, %al; out %al, $0x43     (PIT: rate generator)
        b"\xb0\x9b\xe6\x40"  # mov $0x9b, %al; out %al, $0x40     (11931 / 1193182 Hz)
        b"\xb0\x2e\xe6\x40"  # mov $0x2e, %al; out %al, $0x40
        b"\xb9" + count.to_bytes(2, "little") + b"\xfb"  # mov $count, %cx; sti
        b"\xf4"  # 1: hlt
        b"\xb0\x40\xe6\x80"  # mov $0x40, %al; out %al, $0x80
        b"\x49"  # dec %cx
        b"\x75\xf8"  # jnz 1b
    )
    handler = (
        b"\x50"  # push %ax
        b"\xb0\x20\xe6\x20"  # mov $0x20, %al; out %al, $0x20     (end of interrupt)
        b"\x58"  # pop %ax
        b"\xcf"  # iret
    )
    end = SHUTDOWN + b"\xeb\xfe"
    body = (start + end).ljust(handler_at - PROLOGUE_SIZE, b"\xf4")
    return body + handler


STAMPS_MAX = 500
STAMP_PAUSES = 32  # as many lengths of a pause, in turns


def stamped_marks(count: int) -> bytes:
    """Mark `count` times with a pause between, the TSC noted before each; then tell all of them.

    They come out of port 0x402, 8 bytes each, low byte first.
    """
    assert count <= STAMPS_MAX
    return (
        b"\xfc"  # cld
        b"\xbf\x00\x20"  # mov $0x2000, %di
        b"\xb9" + count.to_bytes(2, "little") + b"\x0f\x31"  # mov $count, %cx; 1: rdtsc
        b"\x66\xab"  # stosl                        (low half to %es:(%di))
        b"\x66\x92"  # xchg %eax, %edx
        b"\x66\xab"  # stosl
        b"\xb0\x40"  # mov $0x40, %al
        b"\xe6\x80"  # out %al, $0x80
        b"\x89\xcb"  # mov %cx, %bx
        b"\x83\xe3\x1f"  # and $31, %bx              (pauses of 1 to 32 turns)
        b"\x43"  # inc %bx
        b"\x4b"  # 2: dec %bx
        b"\x75\xfd"  # jnz 2b
        b"\x49"  # dec %cx
        b"\x75\xe8"  # jnz 1b
        b"\xbe\x00\x20"  # mov $0x2000, %si
        b"\xba\x02\x04"  # mov $0x402, %dx
        b"\xb9" + (8 * count).to_bytes(2, "little") + b"\xf3\x6e"  # mov $8*count, %cx; rep outsb
    )


FOREVER = b"\xeb\xfe"  # 1: jmp 1b
SLEEP = (
    b"\xfb"  # sti
    b"\xf4"  # 1: hlt
    b"\xeb\xfd"  # jmp 1b
)
GDT = b"".join(
    entry.to_bytes(8, "little")
    for entry in (0, 0x00CF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF)  # null, 32-bit code, data
)
ROM_ADDRESS = 0xFFFF_F000
PROLOGUE_SIZE = 8
ENTRY_32 = PROLOGUE_SIZE + 29


def protected(code: bytes) -> bytes:
    """Real-mode code that goes to 32-bit protected mode, flat segments, and runs `code` there."""
    gdt_pointer_at = 0x200
    start = (
        b"\x2e\x66\x0f\x01\x16"
        + (0xF000 + gdt_pointer_at).to_bytes(2, "little")  # lgdtl %cs:pointer
        + b"\x0f\x20\xc0"  # mov %cr0, %eax
        b"\x0c\x01"  # or $1, %al
        b"\x0f\x22\xc0"  # mov %eax, %cr0
        b"\x66\xea" + (ROM_ADDRESS + ENTRY_32 - 6).to_bytes(4, "little") + b"\x08\x00"  # ljmpl
        b"\x66\xb8\x10\x00"  # mov $0x10, %ax
        b"\x8e\xd8"  # mov %ax, %ds
    )
    assert PROLOGUE_SIZE + len(start) == ENTRY_32
    pointer = (len(GDT) - 1).to_bytes(2, "little")
    pointer += (ROM_ADDRESS + gdt_pointer_at + 6).to_bytes(4, "little")
    body = (start + code).ljust(gdt_pointer_at - PROLOGUE_SIZE, b"\xf4")
    assert len(body) == gdt_pointer_at - PROLOGUE_SIZE
    return body + pointer + GDT


SHUTDOWN_32 = (
    b"\x66\xba\x00\x06"  # mov $0x600, %dx
    b"\xb0\x34"  # mov $0x34, %al
    b"\xee"  # out %al, %dx
)
TRIPLE_FAULT = protected(
    mark(0x42) + b"\x0f\x01\x1d\x00\x20\x00\x00"  # lidt 0x2000       (zero: the IDT has no entries)
    b"\x31\xc9"  # xor %ecx, %ecx
    b"\xf7\xf1"  # div %ecx
)
RUN_FROM_NOWHERE = protected(
    mark(0x42) + b"\xb8\x00\x00\x00\xd0"  # mov $0xd0000000, %eax      (no memory there)
    b"\xff\xe0"  # jmp *%eax
)


IRET_AT, BODY_AT = 0x0F, 0x10


def hungry(exits: int) -> bytes:
    """Counts up on port 0x80, and uses 16 more pages of its memory with each mark.

    Each page takes it so many exits that are no mark.
    """
    return protected(
        b"\x31\xdb"  # xor %ebx, %ebx
        b"\xbf\x00\x00\x10\x00"  # mov $0x100000, %edi
        b"\x88\xd8"  # again: mov %bl, %al
        b"\xe6\x80"  # out %al, $0x80
        b"\x43"  # inc %ebx
        b"\xba\x10\x00\x00\x00"  # mov $16, %edx
        b"\xc6\x07\x01"  # page: movb $1, (%edi)
        b"\x81\xc7\x00\x10\x00\x00"  # add $4096, %edi
        b"\xb9" + exits.to_bytes(4, "little") + b"\xe4\x80"  # mov $exits, %ecx; slow: in $0x80, %al
        b"\xe2\xfc"  # loop slow
        b"\x4a"  # dec %edx
        b"\x75\xeb"  # jnz page
        b"\xeb\xdf"  # jmp again
    )


def metronome(hertz: int) -> bytes:
    """Counts up on port 0x80, `hertz` times a second and asleep between, for ever."""
    divisor = 1_193_182 // hertz  # the PIT's clock (Intel 8254)
    iret_at = 0xF000 + PROLOGUE_SIZE + IRET_AT
    setup = (
        b"\xc7\x06\x80\x00" + iret_at.to_bytes(2, "little")  # movw $iret, 0x80   (vector 0x20)
        + b"\xc7\x06\x82\x00\x00\xf0"  # movw $0xf000, 0x82
        b"\xeb\x02"  # jmp body
        b"\x90"
        b"\xcf"  # iret
    )  # fmt: skip
    assert len(setup) == BODY_AT
    init = [(0x20, 0x11), (0x21, 0x20), (0x21, 0x04), (0x21, 0x01), (0x21, 0xFE)]  # PIC: IRQ 0 only
    init += [(0x43, 0x34), (0x40, divisor & 0xFF), (0x40, divisor >> 8)]  # PIT: channel 0, mode 2
    return (
        setup
        + b"".join(
            bytes([0xB0, value])  # mov $value, %al
            + bytes([0xE6, port])  # out %al, $port
            for port, value in init
        )
        + b"\x31\xdb"  # xor %bx, %bx
        b"\xfb"  # again: sti
        b"\xf4"  # hlt                   (the one place where the interrupt is let in)
        b"\xfa"  # cli
        b"\x88\xd8"  # mov %bl, %al
        b"\xe6\x80"  # out %al, $0x80
        b"\x43"  # inc %bx
        b"\xb0\x20"  # mov $0x20, %al         (end of interrupt)
        b"\xe6\x20"  # out %al, $0x20
        b"\xeb\xf2"  # jmp again
    )
