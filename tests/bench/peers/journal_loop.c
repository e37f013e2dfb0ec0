/* SPDX-License-Identifier: Apache-2.0
 *
 * Sends entries with the fields of an event in a loop of sd_journal_sendv.
 *
 * Usage: journal_loop ENTRIES VM
 */
#define SD_JOURNAL_SUPPRESS_LOCATION
#include <err.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-journal.h>
#include <time.h>

#define FIELDS 12
#define FIELD_SIZE 128

static char texts[FIELDS][FIELD_SIZE];
static struct iovec fields[FIELDS];

static void set(int at, const char *format, ...)
{
        va_list arguments;

        va_start(arguments, format);
        fields[at].iov_len = (size_t)vsnprintf(texts[at], FIELD_SIZE, format, arguments);
        fields[at].iov_base = texts[at];
        va_end(arguments);
}

static unsigned long now(void)
{
        struct timespec ts;

        clock_gettime(CLOCK_MONOTONIC, &ts);
        return (unsigned long)ts.tv_sec * 1000000000 + (unsigned long)ts.tv_nsec;
}

int main(int argc, char **argv)
{
        unsigned long start = now();

        if (argc != 3)
                errx(1, "usage: journal_loop ENTRIES VM");
        set(0, "SYSLOG_IDENTIFIER=chdebugd");
        set(1, "PRIORITY=7");
        set(2, "MESSAGE_ID=a1c7b8d2e0f74b7f9d5f3c6e80de0001");
        set(3, "VM=%s", argv[2]);
        set(4, "VM_BOOT=00112233445566778899aabbccddeeff");
        set(5, "COMPONENT=Kernel");
        set(6, "CODE=0x40");
        set(7, "VCPU=0");
        for (unsigned long i = 1, n = strtoul(argv[1], NULL, 10); i <= n; i++) {
                unsigned long nsec = now() - start; /* new ones, as journald keeps each value once */
                int result;

                set(8, "MESSAGE=[Debug I/O port: Kernel code 0x40] %lu.%06lu seconds",
                    nsec / 1000000000, nsec / 1000 % 1000000);
                set(9, "ELAPSED=%lu.%06lu", nsec / 1000000000, nsec / 1000 % 1000000);
                set(10, "ELAPSED_NSEC=%lu", nsec);
                set(11, "SEQ=%lu", i);
                result = sd_journal_sendv(fields, FIELDS);
                if (result < 0)
                        errx(1, "sd_journal_sendv: %s", strerror(-result));
        }
        return 0;
}
