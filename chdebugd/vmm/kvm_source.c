/* SPDX-License-Identifier: Apache-2.0
 *
 * The run loop of one vCPU and what port 0x80 does in it. Python calls
 * chd_vcpu_run on the vCPU's thread without the GIL; it comes back only when
 * Python is needed. Nothing here prints, allocates or keeps globals.
 */
#include <errno.h>
#include <asm/kvm_para.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "filter.h"
#include "process_filter.h"
#include "ring.h"

#define CHD_DEBUG_PORT 0x80
#define CHD_EXIT_BYTES 64

enum {
        CHD_EXITED,    /* the exit below is for Python to handle */
        CHD_KICKED,    /* chd_vcpu_kick asked for the thread */
        CHD_RING_FULL, /* the guest waits until a sink has read; call again then */
};

/* KVM's variable-length arguments, with room for what we pass. */
struct chd_cpuid {
        uint32_t n_entries;
        uint32_t padding;
        struct kvm_cpuid_entry2 entries[256];
};

struct chd_msrs {
        uint32_t n_entries;
        uint32_t padding;
        struct kvm_msr_entry entries[32];
};

/* The last exit, laid out flat. */
struct chd_exit {
        uint32_t reason;  /* KVM_EXIT_* */
        uint64_t address; /* port, or guest physical address */
        uint32_t size;    /* bytes an access */
        uint32_t count;   /* accesses in `data` */
        int is_write;
        uint8_t *data;
        uint64_t value;     /* of one access: what is written, or the answer to a read */
        int awaits_value;   /* it is such a read */
        uint64_t detail; /* suberror, hardware reason or system event type */
        uint32_t n_bytes;
        uint8_t bytes[CHD_EXIT_BYTES]; /* of an emulation failure: the instruction */
};

struct chd_vcpu {
        int fd;
        int index;
        struct kvm_run *run;
        struct chd_ring *ring;
        int wake_sinks;   /* eventfd of the journal and log file sinks */
        int wake_signals; /* eventfd of the daemon */
        pid_t thread;
        struct chd_exit exit;
        /* A write to the debug port that a full ring holds up. */
        uint32_t n_writes;
        uint32_t writes_done;
        uint64_t stamp; /* of the last one, and so when its wait began */
};

static int chd_ioctl(int fd, unsigned long request, void *argument)
{
        int result = ioctl(fd, request, argument);

        return result < 0 ? -errno : result;
}

static int chd_ioctl_value(int fd, unsigned long request, unsigned long argument)
{
        int result = ioctl(fd, request, argument);

        return result < 0 ? -errno : result;
}

/* Wire the GSIs below 24 as a PC has them: the PIC on 0 to 15, the IOAPIC on its pins, but
 * the PIT, whose GSI the kernel fixed to 0, on pin 2 (MP specification 5.3). */
static int chd_route_irqs(int vm_fd)
{
        struct {
                struct kvm_irq_routing head;
                struct kvm_irq_routing_entry entries[16 + 23];
        } routes = { 0 };
        struct kvm_irq_routing_entry *entry = routes.entries;

        for (uint32_t gsi = 0; gsi < 16; gsi++, entry++) {
                entry->gsi = gsi;
                entry->type = KVM_IRQ_ROUTING_IRQCHIP;
                entry->u.irqchip.irqchip = gsi < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE;
                entry->u.irqchip.pin = gsi % 8;
        }
        for (uint32_t gsi = 0; gsi < 24; gsi++) {
                if (gsi == 2)
                        continue;
                entry->gsi = gsi;
                entry->type = KVM_IRQ_ROUTING_IRQCHIP;
                entry->u.irqchip.irqchip = KVM_IRQCHIP_IOAPIC;
                entry->u.irqchip.pin = gsi ? gsi : 2;
                entry++;
        }
        routes.head.nr = (uint32_t)(entry - routes.entries);
        return chd_ioctl(vm_fd, KVM_SET_GSI_ROUTING, &routes);
}

static void no_action(int signal)
{
        (void)signal;
}

/* SIGRTMIN interrupts KVM_RUN and does nothing else; SIGSYS comes of the filter. Once a process. */
static int chd_signals_init(void)
{
        struct sigaction kick = { .sa_handler = no_action };
        struct sigaction forbidden = { .sa_sigaction = chd_forbidden_call, .sa_flags = SA_SIGINFO };

        if (sigaction(SIGRTMIN, &kick, NULL) < 0 || sigaction(SIGSYS, &forbidden, NULL) < 0)
                return -errno;
        return 0;
}

static void chd_vcpu_claim(struct chd_vcpu *vcpu)
{
        char name[16];

        vcpu->thread = gettid();
        snprintf(name, sizeof(name), "vcpu%d", vcpu->index);
        pthread_setname_np(pthread_self(), name);
}

/* Leave the calling thread no system call that a vCPU does not need. Returns 0 or -errno. */
static int chd_vcpu_confine(struct chd_vcpu *vcpu)
{
        return chd_confine(vcpu->ring, true);
}

/* Make chd_vcpu_run return CHD_KICKED, now or at its next entry (api.rst, immediate_exit). */
static int chd_vcpu_kick(struct chd_vcpu *vcpu)
{
        __atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
        /* By number: the thread may have just ended, and pthread_kill(3) must not be told of it. */
        return tgkill(getpid(), vcpu->thread, SIGRTMIN) < 0 && errno != ESRCH ? -errno : 0;
}

static uint8_t *io_data(struct kvm_run *run)
{
        return (uint8_t *)run + run->io.data_offset;
}

static int is_debug_write(const struct kvm_run *run)
{
        return run->exit_reason == KVM_EXIT_IO && run->io.direction == KVM_EXIT_IO_OUT &&
               run->io.port <= CHD_DEBUG_PORT && run->io.port + run->io.size > CHD_DEBUG_PORT;
}

/* Put what the access wrote to port 0x80 into the ring: of each of its `count`
 * accesses the one byte that lands there. Returns 0 where the ring is full. */
static int note_writes(struct chd_vcpu *vcpu)
{
        struct kvm_run *run = vcpu->run;
        uint8_t *byte = io_data(run) + (CHD_DEBUG_PORT - run->io.port);

        for (; vcpu->writes_done < vcpu->n_writes; vcpu->writes_done++) {
                uint8_t code = byte[(size_t)vcpu->writes_done * run->io.size];

                if (!chd_ring_put(vcpu->ring, (uint16_t)vcpu->index, code, vcpu->stamp))
                        break;
                atomic_store_explicit(&vcpu->ring->last_code, code, memory_order_relaxed);
        }
        chd_ring_wake(vcpu->ring, vcpu->wake_sinks, vcpu->wake_signals);
        return vcpu->writes_done == vcpu->n_writes;
}

/* Finish the write that a full ring held up, and count the time. Returns 0 where it is still full. */
static int finish_writes(struct chd_vcpu *vcpu)
{
        if (vcpu->writes_done == vcpu->n_writes)
                return 1;
        if (!note_writes(vcpu))
                return 0;
        atomic_fetch_add(&vcpu->ring->stalled_nsec, chd_now() - vcpu->stamp);
        return 1;
}

/* The run is over: count a write that a full ring still holds up as dropped, and the time it waited. */
static void chd_vcpu_give_up(struct chd_vcpu *vcpu)
{
        uint32_t left = vcpu->n_writes - vcpu->writes_done;

        if (!left)
                return;
        atomic_fetch_add(&vcpu->ring->dropped, left);
        atomic_fetch_add(&vcpu->ring->stalled_nsec, chd_now() - vcpu->stamp);
        vcpu->writes_done = vcpu->n_writes;
}

/* A single access passes as a number, which Python takes and gives much faster than bytes. */
static void lay_out_value(struct chd_exit *exit)
{
        exit->value = 0;
        exit->awaits_value = !exit->is_write && exit->count == 1;
        if (exit->is_write && exit->count == 1)
                memcpy(&exit->value, exit->data, exit->size);
}

static void give_value(struct chd_exit *exit)
{
        if (exit->awaits_value)
                memcpy(exit->data, &exit->value, exit->size);
        exit->awaits_value = 0;
}

static void lay_out_exit(struct chd_vcpu *vcpu)
{
        struct kvm_run *run = vcpu->run;
        struct chd_exit *exit = &vcpu->exit;

        exit->reason = run->exit_reason;
        exit->count = 1;
        switch (run->exit_reason) {
        case KVM_EXIT_IO:
                exit->address = run->io.port;
                exit->size = run->io.size;
                exit->count = run->io.count;
                exit->is_write = run->io.direction == KVM_EXIT_IO_OUT;
                exit->data = io_data(run);
                lay_out_value(exit);
                break;
        case KVM_EXIT_MMIO:
                exit->address = run->mmio.phys_addr;
                exit->size = run->mmio.len;
                exit->is_write = run->mmio.is_write;
                exit->data = run->mmio.data;
                lay_out_value(exit);
                break;
        case KVM_EXIT_FAIL_ENTRY:
                exit->detail = run->fail_entry.hardware_entry_failure_reason;
                break;
        case KVM_EXIT_SYSTEM_EVENT:
                exit->detail = run->system_event.type;
                break;
        case KVM_EXIT_INTERNAL_ERROR:
                exit->detail = run->internal.suberror;
                exit->n_bytes = 0;
                if (run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION &&
                    run->emulation_failure.ndata >= 1 &&
                    (run->emulation_failure.flags &
                     KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES)) {
                        exit->n_bytes = run->emulation_failure.insn_size;
                        if (exit->n_bytes > sizeof(run->emulation_failure.insn_bytes))
                                exit->n_bytes = sizeof(run->emulation_failure.insn_bytes);
                        memcpy(exit->bytes, run->emulation_failure.insn_bytes, exit->n_bytes);
                }
                break;
        }
}

/* Run the guest on the calling thread until Python is needed: CHD_EXITED,
 * CHD_KICKED, CHD_RING_FULL or -errno of KVM_RUN. */
static int chd_vcpu_run(struct chd_vcpu *vcpu)
{
        struct kvm_run *run = vcpu->run;
        uint64_t never = 0;

        give_value(&vcpu->exit);
        if (!finish_writes(vcpu))
                return CHD_RING_FULL;
        if (!atomic_load(&vcpu->ring->first_entry_nsec) &&
            atomic_compare_exchange_strong(&vcpu->ring->first_entry_nsec, &never, chd_now()))
                chd_ring_tell(vcpu->wake_sinks);

        for (;;) {
                if (ioctl(vcpu->fd, KVM_RUN, 0) < 0) {
                        if (errno == EAGAIN)
                                continue; /* an AP that no SIPI has started */
                        if (errno != EINTR)
                                return -errno;
                        if (!__atomic_exchange_n(&run->immediate_exit, 0, __ATOMIC_SEQ_CST))
                                continue; /* a signal meant for another thread */
                        return CHD_KICKED;
                }
                if (!is_debug_write(run)) {
                        lay_out_exit(vcpu);
                        return CHD_EXITED;
                }
                vcpu->stamp = chd_now();
                vcpu->n_writes = run->io.count;
                vcpu->writes_done = 0;
                if (!note_writes(vcpu))
                        return CHD_RING_FULL;
        }
}

/* Let the guest write to port 0x80 `count` times or for `budget_nsec`, and note in `nsec` how long
 * it took from each exit to the next. The budget begins with the first exit, whose way there is the
 * slow one, and pays for one time at least. Returns how many are noted; less than none, -ENXIO, where
 * the guest left by another way first: its writes to the port do not come out. Or -errno of KVM_RUN. */
static int chd_vcpu_time_exits(struct chd_vcpu *vcpu, uint32_t *nsec, int count,
                               uint64_t budget_nsec)
{
        uint64_t start = 0, last = 0;
        int noted = 0;

        while (noted < count && (!noted || last - start < budget_nsec)) {
                uint64_t now;

                if (ioctl(vcpu->fd, KVM_RUN, 0) < 0)
                        return -errno;
                now = chd_now();
                if (!is_debug_write(vcpu->run))
                        return -ENXIO;
                if (last)
                        nsec[noted++] = (uint32_t)(now - last);
                else
                        start = now;
                last = now;
        }
        return noted;
}
