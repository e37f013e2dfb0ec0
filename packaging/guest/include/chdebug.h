/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * Boot marks for chdebugd: chdebug_mark(CODE) from firmware, a kernel, or a program that has
 * called ioperm(CHDEBUG_PORT, 1, 1).
 */
#ifndef CHDEBUG_H
#define CHDEBUG_H

#define CHDEBUG_PORT 0x80

/* The first code of each component. */
#define CHDEBUG_FIRMWARE 0x00
#define CHDEBUG_BOOTLOADER 0x20
#define CHDEBUG_KERNEL 0x40
#define CHDEBUG_USERSPACE 0x60
#define CHDEBUG_CUSTOM 0x80

static inline void chdebug_mark(unsigned char code)
{
	__asm__ volatile("outb %0, %1" : : "a"(code), "Nd"((unsigned short)CHDEBUG_PORT));
}

#endif
