/* SPDX-License-Identifier: Apache-2.0
 *
 * The demo guest: a 4 KiB flat ROM that ends at 4 GiB and walks all five
 * components, from the reset vector in real mode through protected mode to
 * long mode. Then it shuts down.
 *
 * Linked at 0; byte 0 lies at ROM = 0xfffff000. In real mode the code segment
 * that the reset gives (base 0xffff0000) makes that offset 0xf000.
 */
        .set    ROM, 0xfffff000
        .set    TABLES, 0x10000         /* page tables in RAM: PML4, PDPT, PD */
        .set    SHUTDOWN_PORT, 0x600
        .set    SHUTDOWN, 0x34          /* SLP_EN, SLP_TYP 5 */

        .macro  mark code
        movb    $\code, %al
        outb    %al, $0x80
        .endm

        /* Some time between two marks, so that deltas are worth a look. */
        .macro  work rounds
        movl    $\rounds, %ecx
1:      decl    %ecx
        jnz     1b
        .endm

        .text
        .code16
firmware:
        cli
        mark    0x00                    /* Firmware: first instruction */
        work    2000
        mark    0x01                    /* Firmware: done */
bootloader:
        mark    0x20
        work    1000
        lgdtl   %cs:0xf000 + gdt_pointer
        mark    0x21                    /* Bootloader: hands over */
        movl    %cr0, %eax
        orl     $1, %eax                /* PE */
        movl    %eax, %cr0
        ljmpl   $0x08, $ROM + kernel

        .code32
kernel:
        movw    $0x10, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        mark    0x40                    /* Kernel: protected mode */

        /* RAM is fresh, hence zero: one 2 MiB page, where this ROM lies, will do. */
        movl    $TABLES + 0x1000 + 3, TABLES            /* PML4[0] */
        movl    $TABLES + 0x2000 + 3, TABLES + 0x1000 + 3 * 8    /* PDPT[3]: 3-4 GiB */
        movl    $0xffe00000 + 0x83, TABLES + 0x2000 + 511 * 8    /* PD[511] */
        movl    $TABLES, %eax
        movl    %eax, %cr3
        movl    %cr4, %eax
        orl     $0x20, %eax             /* PAE */
        movl    %eax, %cr4
        movl    $0xc0000080, %ecx       /* EFER */
        rdmsr
        orl     $0x100, %eax            /* LME */
        wrmsr
        movl    %cr0, %eax
        orl     $0x80000000, %eax       /* PG */
        movl    %eax, %cr0
        ljmpl   $0x18, $ROM + kernel64

        .code64
kernel64:
        mark    0x41                    /* Kernel: long mode */
        work    2000
userspace:
        mark    0x60
        work    3000
        mark    0x61                    /* Userspace: ready */
custom:
        mark    0x80
        mark    0xff
        movw    $SHUTDOWN_PORT, %dx
        movb    $SHUTDOWN, %al
        outb    %al, %dx
1:      hlt
        jmp     1b

        .balign 8
gdt:
        .quad   0
        .quad   0x00cf9b000000ffff      /* 0x08: 32-bit code */
        .quad   0x00cf93000000ffff      /* 0x10: data */
        .quad   0x00af9b000000ffff      /* 0x18: 64-bit code */
gdt_pointer:
        .word   . - gdt - 1
        .long   ROM + gdt

        .org    0xff0                   /* the reset vector */
        .code16
        jmp     firmware
        .org    0x1000
