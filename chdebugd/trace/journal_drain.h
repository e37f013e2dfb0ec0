/* SPDX-License-Identifier: Apache-2.0
 *
 * The journal's reader of the ring: one datagram of journald's native protocol for each event.
 *
 * In C because journald takes entries as fast as a client can make them on what is left of two
 * cores, and Python took a quarter of that for itself. The GIL is free meanwhile.
 */
#ifndef CHD_JOURNAL_DRAIN_H
#define CHD_JOURNAL_DRAIN_H

#include <errno.h>
#include <linux/sockios.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "ring.h"

#define CHD_PAUSE_NSEC 200000 /* the first of a row, each twice as long as the one before */
#define CHD_PAUSES 5          /* of journald, 6 ms, until it counts as stopped */
#define CHD_FIGURES_SIZE 192  /* bytes; five numbers of at most 20 digits and the names of fields */

/* What all entries of one code and boot have in common: fields before the figures, and behind. */
struct chd_entry_text {
        const char *head; /* NULL: nobody has needed it yet */
        size_t head_size;
        const char *tail;
        size_t tail_size;
};

static size_t chd_entry_figures(char *out, const struct chd_event *event)
{
        unsigned long long nsec = event->elapsed_nsec, seq = event->seq;
        unsigned long long seconds = nsec / 1000000000, micros = nsec / 1000 % 1000000;

        return (size_t)snprintf(out, CHD_FIGURES_SIZE,
                                "%llu.%06llu seconds\nELAPSED=%llu.%06llu\nELAPSED_NSEC=%llu\n"
                                "SEQ=%llu\nVCPU=%u\n",
                                seconds, micros, seconds, micros, nsec, seq, event->vcpu);
}

/* Bytes that journald has yet to take from the socket (unix(7)). */
static int chd_unread(int fd)
{
        int bytes = 0;

        ioctl(fd, SIOCOUTQ, &bytes);
        return bytes;
}

/* Pause until half of what we have in journald's queue is read. While it is busy it frees a place every
 * 25 us; to be woken for each would take as much of its CPU time as the entry. */
static void chd_let_journald_read(int fd)
{
        struct timespec pause = { .tv_nsec = CHD_PAUSE_NSEC };
        int full = chd_unread(fd), pauses = 0;

        do {
                nanosleep(&pause, NULL);
                pause.tv_nsec *= 2;
        } while (chd_unread(fd) > full / 2 && ++pauses < CHD_PAUSES);
}

/* Returns 0 or errno: EAGAIN where journald's queue stays full. */
static int chd_entry_send(int fd, const struct chd_event *event, const struct chd_entry_text *text)
{
        char figures[CHD_FIGURES_SIZE];
        struct iovec parts[] = {
                { (void *)text->head, text->head_size },
                { figures, chd_entry_figures(figures, event) },
                { (void *)text->tail, text->tail_size },
        };
        struct msghdr message = { .msg_iov = parts, .msg_iovlen = 3 };
        int has_waited = 0;

        while (sendmsg(fd, &message, MSG_NOSIGNAL) < 0) {
                if (errno == EINTR)
                        continue;
                if (errno != EAGAIN || has_waited++)
                        return errno;
                chd_let_journald_read(fd);
        }
        return 0;
}

/* Send the events of `boot` from the journal's position on, at most `max`, and move the position
 * behind each. Returns how many. `*problem` is 0, the errno of the socket, ENODATA where a text is
 * missing or another boot begins, or EOVERFLOW where the ring was overwritten. */
static int chd_journal_drain(struct chd_ring *ring, int fd, const struct chd_entry_text *texts,
                             uint32_t boot, int max, int *problem)
{
        int count;

        *problem = 0;
        for (count = 0; count < max; count++) {
                uint64_t position = chd_load(&ring->readers[CHD_READER_JOURNAL].position), lost;
                struct chd_event event;

                if (!chd_ring_copy(ring, position, &event, 1, &lost))
                        break;
                if (lost)
                        *problem = EOVERFLOW;
                else if (event.boot != boot || !texts[event.code].head)
                        *problem = ENODATA;
                else
                        *problem = chd_entry_send(fd, &event, &texts[event.code]);
                if (*problem)
                        break;
                chd_ring_move(ring, CHD_READER_JOURNAL, position + 1);
        }
        return count;
}

#endif
