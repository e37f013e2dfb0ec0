/* SPDX-License-Identifier: Apache-2.0
 *
 * The bare loop: what a mark costs where nobody does anything with it. Runs a flat ROM of one page
 * on the same virtual hardware as a VM of chdebugd (irqchip, PIT, LAPIC, one vCPU) and notes
 * CLOCK_MONOTONIC after each exit of a write to port 0x80, until the guest leaves in another way.
 *
 * Usage: kvm_loop ROM EVENTS_MAX. Writes the stamps as 64-bit numbers to its output.
 */
#include <err.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096
#define MEMORY (16u << 20)

static uint64_t now(void)
{
        struct timespec ts;

        clock_gettime(CLOCK_MONOTONIC, &ts);
        return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static int call(int fd, unsigned long request, unsigned long argument, const char *name)
{
        int result = ioctl(fd, request, argument);

        if (result < 0)
                err(1, "%s", name);
        return result;
}
#define CALL(fd, request, argument) call(fd, request, (unsigned long)(argument), #request)

static void *map(int fd, size_t size)
{
        int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE : MAP_SHARED;
        void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, 0);

        if (memory == MAP_FAILED)
                err(1, "mmap");
        return memory;
}

static void add_memory(int vm, uint32_t slot, uint64_t gpa, uint64_t size, void *memory)
{
        struct kvm_userspace_memory_region region = {
                .slot = slot,
                .guest_phys_addr = gpa,
                .memory_size = size,
                .userspace_addr = (uintptr_t)memory,
        };

        CALL(vm, KVM_SET_USER_MEMORY_REGION, &region);
}

static int create_vm(int kvm, const char *rom)
{
        int vm = CALL(kvm, KVM_CREATE_VM, 0), file = open(rom, O_RDONLY);
        struct kvm_pit_config pit = { .flags = KVM_PIT_SPEAKER_DUMMY };
        uint64_t identity_map = 0xfeffc000;
        void *page = map(-1, PAGE);

        if (file < 0 || read(file, page, PAGE) != PAGE)
                err(1, "%s", rom);
        CALL(vm, KVM_SET_TSS_ADDR, 0xfeffd000);
        CALL(vm, KVM_SET_IDENTITY_MAP_ADDR, &identity_map);
        CALL(vm, KVM_CREATE_IRQCHIP, 0);
        CALL(vm, KVM_CREATE_PIT2, &pit);
        add_memory(vm, 0, 0, MEMORY, map(-1, MEMORY));
        add_memory(vm, 1, 0x100000000 - PAGE, PAGE, page);
        return vm;
}

static void set_cpuid(int kvm, int vcpu)
{
        struct kvm_cpuid2 *cpuid = calloc(1, sizeof(*cpuid) + 256 * sizeof(cpuid->entries[0]));

        cpuid->nent = 256;
        CALL(kvm, KVM_GET_SUPPORTED_CPUID, cpuid);
        CALL(vcpu, KVM_SET_CPUID2, cpuid);
        free(cpuid);
}

int main(int argc, char **argv)
{
        int kvm = open("/dev/kvm", O_RDWR), vm, vcpu;
        size_t max, count = 0;
        struct kvm_run *run;
        uint64_t *stamps;

        if (argc != 3 || kvm < 0)
                err(1, "usage: kvm_loop ROM EVENTS_MAX");
        vm = create_vm(kvm, argv[1]);
        vcpu = CALL(vm, KVM_CREATE_VCPU, 0);
        set_cpuid(kvm, vcpu);
        run = map(vcpu, (size_t)CALL(kvm, KVM_GET_VCPU_MMAP_SIZE, 0));
        max = strtoul(argv[2], NULL, 10);
        stamps = calloc(max, sizeof(*stamps));
        for (;;) {
                CALL(vcpu, KVM_RUN, 0);
                if (run->exit_reason != KVM_EXIT_IO || run->io.port != 0x80)
                        break;
                if (count < max)
                        stamps[count++] = now();
        }
        return fwrite(stamps, sizeof(*stamps), count, stdout) == count ? 0 : 1;
}
