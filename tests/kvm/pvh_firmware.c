/* SPDX-License-Identifier: Apache-2.0
 *
 * A firmware as small ones are: it is entered by PVH, goes to 64 bits, takes the machine as the
 * host laid it out, and polls. It finds the EFI partition of the first virtio disk that has one,
 * puts the partition's first sectors at 2 MiB and runs them there. What it finds wrong it says on
 * COM1, marks 0x1f and halts.
 */
#include <stddef.h>
#include <stdint.h>

#define COM1 0x3f8
#define LOAD_ADDRESS 0x200000
#define LOAD_SECTORS 8
#define SECTOR 512
#define QUEUE_SIZE 16

/* The note by which a host finds the entry, and the way from there to 64 bits: 4 GiB of memory
 * where it lies, in pages of 2 MiB. */
asm(".pushsection .note.Xen, \"a\", @note\n"
    ".balign 4\n"
    ".long 4, 8, 18\n"
    ".asciz \"Xen\"\n"
    ".quad entry\n"
    ".popsection\n"
    ".code32\n"
    ".globl entry\n"
    "entry: movl $stack_end, %esp\n"
    "movl %ebx, %edi\n"
    "movl $0x83, %eax\n"
    "movl $middle, %ecx\n"
    "1: movl %eax, (%ecx)\n"
    "addl $0x200000, %eax\n"
    "addl $8, %ecx\n"
    "cmpl $middle + 4 * 4096, %ecx\n"
    "jne 1b\n"
    "movl $middle + 3, %eax\n"
    "movl $upper, %ecx\n"
    "2: movl %eax, (%ecx)\n"
    "addl $4096, %eax\n"
    "addl $8, %ecx\n"
    "cmpl $upper + 4 * 8, %ecx\n"
    "jne 2b\n"
    "movl $upper + 3, top\n"
    "movl $top, %eax\n"
    "movl %eax, %cr3\n"
    "movl %cr4, %eax\n"
    "orl $0x20, %eax\n"
    "movl %eax, %cr4\n"
    "movl $0xc0000080, %ecx\n"
    "rdmsr\n"
    "orl $0x100, %eax\n"
    "wrmsr\n"
    "movl %cr0, %eax\n"
    "orl $0x80000000, %eax\n"
    "movl %eax, %cr0\n"
    "lgdt gdt_pointer\n"
    "ljmp $8, $3f\n"
    ".code64\n"
    "3: movl $16, %eax\n"
    "movl %eax, %ds\n"
    "movl %eax, %es\n"
    "movl %eax, %ss\n"
    "movl %edi, %edi\n"
    "call firmware\n"
    ".balign 8\n"
    "gdt: .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff\n"
    "gdt_pointer: .word 23\n"
    ".long gdt\n");

uint64_t top[512] __attribute__((aligned(4096)));
uint64_t upper[512] __attribute__((aligned(4096)));
uint64_t middle[4][512] __attribute__((aligned(4096)));
char stack[16384] __attribute__((aligned(16)));
asm(".globl stack_end\nstack_end = stack + 16384\n");

/* Ports */

static void out8(uint16_t port, uint8_t value)
{
        asm volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static uint8_t in8(uint16_t port)
{
        uint8_t value;

        asm volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
        return value;
}

static uint32_t config_read(uint32_t slot, uint32_t offset)
{
        uint32_t value;

        asm volatile("outl %0, %1" : : "a"(1u << 31 | slot << 11 | offset), "Nd"((uint16_t)0xcf8));
        asm volatile("inl %1, %0" : "=a"(value) : "Nd"((uint16_t)0xcfc));
        return value;
}

static uint8_t config_read8(uint32_t slot, uint32_t offset)
{
        return (uint8_t)(config_read(slot, offset & ~3u) >> offset % 4 * 8);
}

static uint8_t cmos(uint8_t index)
{
        out8(0x70, index);
        return in8(0x71);
}

/* The console: a 16550, set up from the start, each byte sent when it says that it may be. */

static void serial_init(void)
{
        static const uint8_t steps[][2] = { { 1, 0 },    { 3, 0x80 }, { 0, 3 }, { 1, 0 },
                                            { 3, 0x03 }, { 2, 0xc7 }, { 4, 11 }, { 1, 1 } };

        for (size_t at = 0; at < sizeof(steps) / sizeof(*steps); at++)
                out8((uint16_t)(COM1 + steps[at][0]), steps[at][1]);
}

static void print(const char *text)
{
        for (; *text; text++) {
                while (!(in8(COM1 + 5) & 0x20))
                        ;
                out8(COM1, (uint8_t)*text);
        }
}

static void print_hex(uint64_t value)
{
        for (int shift = 60; shift >= 0; shift -= 4)
                if (value >> shift || !shift) {
                        const char digit[] = { "0123456789abcdef"[value >> shift & 15], 0 };

                        print(digit);
                }
}

static void say(const char *what, uint64_t value)
{
        print(what);
        print(" ");
        print_hex(value);
        print("\n");
}

static void give_up(const char *why)
{
        print(why);
        print("\n");
        out8(0x80, 0x1f);
        for (;;)
                asm volatile("cli; hlt");
}

/* What the host tells at the entry (Xen, start_info.h) */

struct start_info {
        uint32_t magic, version, flags, n_modules;
        uint64_t modules, cmdline, rsdp, memory_map;
        uint32_t n_ranges, padding;
};

struct range {
        uint64_t start, size;
        uint32_t kind, padding;
};

static void check_start(const struct start_info *info)
{
        const struct range *ranges = (const struct range *)info->memory_map;
        uint64_t ram = 0;

        if (info->magic != 0x336ec578 || info->version < 1)
                give_up("no start_info");
        for (uint32_t at = 0; at < info->n_ranges; at++) {
                if (ranges[at].kind < 1 || ranges[at].kind > 5)
                        give_up("a kind of memory that no map has");
                if (ranges[at].start % 4096 || ranges[at].size % 4096)
                        give_up("a range with a part of a page");
                ram += ranges[at].kind == 1 ? ranges[at].size : 0;
        }
        if (*(const uint64_t *)info->rsdp != 0x2052545020445352)
                give_up("no RSDP");
        say("RAM", ram);
}

static void check_clock(void)
{
        if (cmos(10) & 0x80)
                give_up("the clock is always between two seconds");
        if (!(cmos(11) & 2))
                give_up("the clock has halves of days");
        say("year", cmos(9));
}

/* virtio-blk: as much of virtio 1.2 as reading takes */

struct descriptor {
        uint64_t address;
        uint32_t length;
        uint16_t flags, next;
};

static struct {
        struct descriptor table[QUEUE_SIZE];
        struct {
                uint16_t flags, index, ring[QUEUE_SIZE];
        } avail;
        struct {
                uint16_t flags, index;
                struct {
                        uint32_t id, length;
                } ring[QUEUE_SIZE];
        } used __attribute__((aligned(4)));
} queue __attribute__((aligned(64)));

static struct {
        volatile uint8_t *common, *notify;
        volatile uint32_t *config;
        uint32_t notify_step;
        uint16_t next;
} disk;

static void write8(uint32_t offset, uint8_t value)
{
        disk.common[offset] = value;
}

static void write16(uint32_t offset, uint16_t value)
{
        *(volatile uint16_t *)(disk.common + offset) = value;
}

static void write32(uint32_t offset, uint32_t value)
{
        *(volatile uint32_t *)(disk.common + offset) = value;
}

/* By one access: it is 8 bytes wide on the wire. */
static void write64(uint32_t offset, const void *address)
{
        asm volatile("movq %1, %0"
                     : "=m"(*(volatile uint64_t *)(disk.common + offset))
                     : "r"((uint64_t)address));
}

static uint16_t read16(uint32_t offset)
{
        return *(volatile uint16_t *)(disk.common + offset);
}

static void add_status(uint8_t bit)
{
        write8(0x14, (uint8_t)(disk.common[0x14] | bit));
}

static void find_areas(uint32_t slot)
{
        if (!(config_read(slot, 4) >> 16 & 0x10))
                give_up("a device without capabilities");
        for (uint32_t at = config_read8(slot, 0x34); at; at = config_read8(slot, at + 1)) {
                uint32_t bar = 0x10 + 4u * config_read8(slot, at + 4);
                volatile uint8_t *area;

                if (config_read8(slot, at) != 9)
                        continue;
                area = (volatile uint8_t *)(uint64_t)(config_read(slot, bar) & ~15u);
                area += config_read(slot, at + 8);
                switch (config_read8(slot, at + 3)) {
                case 1:
                        disk.common = area;
                        break;
                case 2:
                        disk.notify = area;
                        disk.notify_step = config_read(slot, at + 16);
                        break;
                case 4:
                        disk.config = (volatile uint32_t *)area;
                        break;
                }
        }
}

static void start_disk(uint32_t slot)
{
        uint32_t features;

        find_areas(slot);
        write8(0x14, 0);
        add_status(1);
        add_status(2);
        write32(0x00, 1);
        features = *(volatile uint32_t *)(disk.common + 4);
        if (!(features & 1))
                give_up("a disk of the old kind");
        write32(0x08, 0);
        write32(0x0c, 0);
        write32(0x08, 1);
        write32(0x0c, 1);
        add_status(8);
        if (!(disk.common[0x14] & 8))
                give_up("the disk refuses the features");
        write16(0x16, 0);
        if (read16(0x18) < QUEUE_SIZE)
                give_up("the queue is too small");
        write16(0x18, QUEUE_SIZE);
        queue.avail.index = queue.used.index = disk.next = 0;
        write64(0x20, queue.table);
        write64(0x28, &queue.avail);
        write64(0x30, &queue.used);
        write16(0x1c, 1);
        add_status(4);
        say("sectors", disk.config[0] | (uint64_t)disk.config[1] << 32);
}

static void read_sector(uint64_t sector, void *target)
{
        struct {
                uint32_t kind, reserved;
                uint64_t sector;
        } header = { 0, 0, sector };
        volatile uint8_t status = 0xff;
        const struct descriptor chain[] = { { (uint64_t)&header, sizeof(header), 1, 0 },
                                            { (uint64_t)target, SECTOR, 1 | 2, 0 },
                                            { (uint64_t)&status, 1, 2, 0 } };
        uint16_t head = disk.next;

        for (uint16_t at = 0; at < 3; at++) {
                queue.table[(head + at) % QUEUE_SIZE] = chain[at];
                queue.table[(head + at) % QUEUE_SIZE].next = (uint16_t)((head + at + 1) % QUEUE_SIZE);
        }
        disk.next = (head + 3) % QUEUE_SIZE;
        queue.avail.ring[queue.avail.index % QUEUE_SIZE] = head;
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        queue.avail.index++;
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        *(volatile uint32_t *)(disk.notify + read16(0x1e) * disk.notify_step) = 0;
        while (__atomic_load_n(&queue.used.index, __ATOMIC_ACQUIRE) != queue.avail.index)
                ;
        if (status)
                give_up("a sector cannot be read");
}

/* The partitions (UEFI 2.10, 5.3) */

struct partition {
        uint64_t type[2], id[2], first, last, attributes;
        uint16_t name[36];
};

/* The first sector of the EFI partition, or 0. */
static uint64_t efi_partition(void)
{
        static union {
                uint8_t bytes[SECTOR];
                uint64_t words[SECTOR / 8];
                struct partition partitions[SECTOR / sizeof(struct partition)];
        } sector;
        uint64_t first_usable, at;

        read_sector(1, &sector);
        if (sector.words[0] != 0x5452415020494645)
                return 0;
        first_usable = sector.words[5];
        for (at = sector.words[9]; at < first_usable; at++) {
                read_sector(at, &sector);
                for (size_t n = 0; n < sizeof(sector) / sizeof(struct partition); n++)
                        if (sector.partitions[n].type[0] == 0x11d2f81fc12a7328 &&
                            sector.partitions[n].type[1] == 0x3bc93ec9a0004bba)
                                return sector.partitions[n].first;
        }
        return 0;
}

static void boot_from(uint64_t first)
{
        for (uint64_t at = 0; at < LOAD_SECTORS; at++)
                read_sector(first + at, (void *)(LOAD_ADDRESS + at * SECTOR));
        write8(0x14, 0);
        out8(0x80, 0x02);
        ((void (*)(void))LOAD_ADDRESS)();
}

void firmware(const struct start_info *info)
{
        out8(0x80, 0x00);
        serial_init();
        check_start(info);
        check_clock();
        out8(0x80, 0x01);
        for (uint32_t slot = 0; slot < 32; slot++) {
                uint64_t first;

                if (config_read(slot, 0) != 0x10421af4)
                        continue;
                say("disk in slot", slot);
                start_disk(slot);
                first = efi_partition();
                if (first)
                        boot_from(first);
        }
        give_up("no disk with an EFI partition");
}
