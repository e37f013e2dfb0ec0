/* SPDX-License-Identifier: Apache-2.0
 *
 * The system calls that a thread may make once it has met its guest: a vCPU's,
 * or the engine's of a virtio device. A guest that breaks out of a device model
 * finds itself under this filter, and under the one of the unit (seccomp(2),
 * seccomp_rule_add(3)).
 *
 * Any other call ends the whole process: an error number would let the guest
 * try the next one. What was in the ring is the daemon's to drain.
 */
#ifndef CHD_FILTER_H
#define CHD_FILTER_H

#include <errno.h>
#include <linux/kvm.h>
#include <seccomp.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "ring.h"

#define CHD_EXIT_FORBIDDEN (128 + SIGSYS)

/* Whatever the arguments. */
static const int chd_calls[] = {
        /* locks, time, sleep */
        SCMP_SYS(futex),
        SCMP_SYS(clock_gettime),
        SCMP_SYS(clock_getres),
        SCMP_SYS(clock_nanosleep),
        SCMP_SYS(nanosleep),
        SCMP_SYS(gettimeofday),
        SCMP_SYS(time),
        SCMP_SYS(sched_yield),
        SCMP_SYS(restart_syscall),
        /* signals of the kick, and how the C library asks for a thread's own */
        SCMP_SYS(rt_sigreturn),
        SCMP_SYS(rt_sigprocmask),
        SCMP_SYS(getpid),
        SCMP_SYS(gettid),
        /* memory of the interpreter; mmap and mprotect are below */
        SCMP_SYS(brk),
        SCMP_SYS(munmap),
        SCMP_SYS(madvise),
        SCMP_SYS(mremap),
        SCMP_SYS(sched_getaffinity),
        /* eventfds, text ports, disks: descriptors that are open already */
        SCMP_SYS(read),
        SCMP_SYS(write),
        SCMP_SYS(readv),
        SCMP_SYS(writev),
        SCMP_SYS(pread64),
        SCMP_SYS(pwrite64),
        SCMP_SYS(preadv),
        SCMP_SYS(pwritev),
        SCMP_SYS(fsync),
        SCMP_SYS(fdatasync),
        SCMP_SYS(fallocate),
        SCMP_SYS(lseek),
        SCMP_SYS(close),
        SCMP_SYS(poll),
        SCMP_SYS(getrandom),
        /* the end of the thread */
        SCMP_SYS(exit),
        SCMP_SYS(exit_group),
};

/* Interrupts are all that the engine of a device raises. */
static const uint64_t chd_engine_ioctls[] = {
        KVM_IRQ_LINE,
        KVM_SIGNAL_MSI,
};

static _Thread_local struct chd_ring *chd_confined_ring;

/* For SIGSYS: keep the number for the daemon, say it on stderr, and end. */
static inline void chd_forbidden_call(int signal, siginfo_t *info, void *context)
{
        static const char before[] = "chdebugd: a guest's thread was ended at system call ";
        static const char after[] = ", which its filter forbids\n";
        unsigned int call = (unsigned int)info->si_syscall;
        char text[sizeof(before) + 10 + sizeof(after)];
        char digits[10];
        size_t used = sizeof(before) - 1;
        size_t n = 0;
        ssize_t written;

        (void)signal;
        (void)context;
        if (chd_confined_ring)
                atomic_store(&chd_confined_ring->forbidden_call, call + 1);
        memcpy(text, before, used);
        do
                digits[n++] = (char)('0' + call % 10);
        while (call /= 10);
        while (n)
                text[used++] = digits[--n];
        memcpy(text + used, after, sizeof(after) - 1);
        written = write(STDERR_FILENO, text, used + sizeof(after) - 1);
        (void)written;
        _exit(CHD_EXIT_FORBIDDEN);
}

/* Memory is never executable, and mapped without a file only. */
static int chd_allow_memory(scmp_filter_ctx filter)
{
        int result = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1,
                                      SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));

        if (result)
                return result;
        return seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 2,
                                SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0),
                                SCMP_A3(SCMP_CMP_MASKED_EQ, MAP_ANONYMOUS, MAP_ANONYMOUS));
}

/* A vCPU's thread may make them all. The kernel remembers which calls pass whatever their
 * arguments are, and asks no filter then; once one filter looks into the arguments of ioctl,
 * KVM_RUN goes through all of them, with some thirty of the unit: 1.0 us of 8.6 us a mark.
 * So a guest that broke out may make VMs, and set up its own tap and terminals otherwise.
 */
static int chd_allow_ioctls(scmp_filter_ctx filter, bool is_vcpu)
{
        int result = 0;

        if (is_vcpu)
                return seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 0);
        for (size_t i = 0; !result && i < sizeof(chd_engine_ioctls) / sizeof(uint64_t); i++)
                result = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
                                          SCMP_A1(SCMP_CMP_EQ, chd_engine_ioctls[i]));
        return result;
}

/* Threads of its own process only: kicks, and abort(3). */
static int chd_allow_own_signals(scmp_filter_ctx filter)
{
        return seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1,
                                SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)getpid()));
}

static int chd_fill_filter(scmp_filter_ctx filter, bool is_vcpu)
{
        int result = seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);

        if (!result)
                result = seccomp_attr_set(filter, SCMP_FLTATR_API_SYSRAWRC, 1);
        for (size_t i = 0; !result && i < sizeof(chd_calls) / sizeof(*chd_calls); i++)
                result = seccomp_rule_add(filter, SCMP_ACT_ALLOW, chd_calls[i], 0);
        if (!result)
                result = chd_allow_memory(filter);
        if (!result)
                result = chd_allow_ioctls(filter, is_vcpu);
        if (!result)
                result = chd_allow_own_signals(filter);
        return result;
}

/* Put the calling thread under the filter, for good; `ring`, if any, tells the daemon of an end
 * by it. Returns 0 or -errno. */
static int chd_confine(struct chd_ring *ring, bool is_vcpu)
{
        scmp_filter_ctx filter;
        int result;

        chd_confined_ring = ring;
        filter = seccomp_init(SCMP_ACT_TRAP);
        if (!filter)
                return -ENOMEM;
        result = chd_fill_filter(filter, is_vcpu);
        if (!result)
                result = seccomp_load(filter);
        seccomp_release(filter);
        return result;
}

#endif
