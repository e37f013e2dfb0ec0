/* SPDX-License-Identifier: Apache-2.0
 *
 * What no thread of a VM process may do to other processes. All of them have one
 * user, so the kernel would let one that its guest has taken over signal, limit
 * or look into the others (kill(2), prlimit(2), ptrace(2)).
 *
 * The calls fail: the C library and Python may try some and live without them.
 * What a thread that has met its guest may call at all: filter.h.
 */
#ifndef CHD_PROCESS_FILTER_H
#define CHD_PROCESS_FILTER_H

#include <errno.h>
#include <seccomp.h>
#include <unistd.h>

static const int chd_calls_to_others[] = {
        SCMP_SYS(kill),
        SCMP_SYS(tkill),
        SCMP_SYS(rt_sigqueueinfo),
        SCMP_SYS(rt_tgsigqueueinfo),
        SCMP_SYS(pidfd_open),
        SCMP_SYS(pidfd_getfd),
        SCMP_SYS(pidfd_send_signal),
        SCMP_SYS(process_madvise),
        SCMP_SYS(process_vm_readv),
        SCMP_SYS(process_vm_writev),
        SCMP_SYS(ptrace),
        SCMP_SYS(kcmp),
        /* its calls pass by every filter */
        SCMP_SYS(io_uring_setup),
};

static int chd_forbid_others(scmp_filter_ctx filter)
{
        const uint32_t refuse = SCMP_ACT_ERRNO(EPERM);
        int result = 0;

        for (size_t i = 0; !result && i < sizeof(chd_calls_to_others) / sizeof(int); i++)
                result = seccomp_rule_add(filter, refuse, chd_calls_to_others[i], 0);
        if (!result)
                result = seccomp_rule_add(filter, refuse, SCMP_SYS(tgkill), 1,
                                          SCMP_A0(SCMP_CMP_NE, (scmp_datum_t)getpid()));
        if (!result) /* 0 is the caller itself */
                result = seccomp_rule_add(filter, refuse, SCMP_SYS(prlimit64), 1,
                                          SCMP_A0(SCMP_CMP_NE, 0));
        return result;
}

/* Put the calling thread, and all that it will make, under the filter. Returns 0 or -errno. */
static int chd_confine_process(void)
{
        scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
        int result;

        if (!filter)
                return -ENOMEM;
        result = seccomp_attr_set(filter, SCMP_FLTATR_API_SYSRAWRC, 1);
        if (!result)
                result = chd_forbid_others(filter);
        if (!result)
                result = seccomp_load(filter);
        seccomp_release(filter);
        return result;
}

#endif
