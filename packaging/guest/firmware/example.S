# SPDX-License-Identifier: Apache-2.0
# An example firmware: a flat 64 KiB ROM that ends at 4 GiB and marks the steps every firmware
# takes: 0x00 the reset vector ran, 0x01 protected mode, 0x02 memory works, 0x1f all done.
# Then it powers the machine off (ACPI S5 by port 0x600); where there is no such port it halts.

.include "chdebug-gas.inc"

.set ROM, 0xffff0000
.set POWER_PORT, 0x600
.set S5, 0x34
.set SCRATCH, 0x100000

.code16
.text
rom:
start16:
	cli
	chdebug_mark 0x00
	lgdtl %cs:gdt_pointer - rom
	mov %cr0, %eax
	or $1, %al
	mov %eax, %cr0
	ljmpl $8, $ROM + (start32 - rom)

.code32
start32:
	chdebug_mark 0x01
	mov $16, %ax
	mov %ax, %ds
	mov $SCRATCH, %ebx
	movl $0x63686462, (%ebx)
	cmpl $0x63686462, (%ebx)
	jne halt
	chdebug_mark 0x02
	chdebug_mark 0x1f
	mov $POWER_PORT, %dx
	mov $S5, %al
	outb %al, %dx
halt:
	hlt
	jmp halt

.align 8
gdt:
	.quad 0
	.quad 0x00cf9b000000ffff # code: flat, 32 bits
	.quad 0x00cf93000000ffff # data: flat
gdt_pointer:
	.word . - gdt - 1
	.long ROM + (gdt - rom)

.code16
.org 0xfff0
	jmp start16
.org 0xffff
	.byte 0
