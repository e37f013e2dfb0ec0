/* SPDX-License-Identifier: Apache-2.0
 *
 * The event ring: shared memory between the vCPU threads, which put one record
 * for each byte that lands on port 0x80, and three readers.
 *
 * - Producers take a ticket by compare-and-swap, so records of several vCPUs
 *   never meet. A record is whole when its `ticket` field holds position + 1;
 *   that field is stored last, and cleared first when a slot is used again. The
 *   fields between are stored with release and loaded with acquire, so that a
 *   reader who finds the same ticket before and after them has all of one event.
 * - The journal and the log file are durable readers: a producer never
 *   overwrites what they have not read. The signals reader is not: it may be
 *   lapped, sees so by the ticket, and counts what it skipped.
 * - A journald that is killed loses an entry that it has read and not stored. So
 *   the last records that went to it stay in the ring, and where it has died the
 *   daemon holds them for a while, to send again what lacks.
 * - A reader that found nothing says that it sleeps, then looks at the head once
 *   more; a producer moves the head, then looks who sleeps, and writes its
 *   eventfd. All four are sequentially consistent, so one of the two sees the
 *   other. A burst costs one such write.
 *
 * The memory may be written by a process that a guest has taken over, so a
 * reader uses nothing from it as an index or a length: the capacity is fixed.
 */
#ifndef CHD_RING_H
#define CHD_RING_H

#include <stdatomic.h>
#include <stdint.h>
#include <stddef.h>
#include <time.h>
#include <unistd.h>

#define CHD_RING_MAGIC 0x31676e6972646863ULL /* "chdring1" */
#define CHD_RING_CAPACITY 65536u              /* records; a power of two */
#define CHD_RING_KEPT 4096u                   /* records behind the journal: its socket has 512 */

enum { CHD_READER_JOURNAL, CHD_READER_LOG, CHD_READER_SIGNALS, CHD_READERS };

struct chd_record {
        _Atomic uint64_t ticket;       /* its position + 1 once whole */
        _Atomic uint64_t elapsed_nsec; /* since the start of its boot */
        _Atomic uint64_t seq;          /* from 1 in each boot */
        _Atomic uint32_t boot;         /* from 1 */
        _Atomic uint16_t vcpu;
        _Atomic uint8_t code;
        uint8_t unused;
};

/* A record as a reader hands it on. */
struct chd_event {
        uint64_t ticket;
        uint64_t elapsed_nsec;
        uint64_t seq;
        uint32_t boot;
        uint16_t vcpu;
        uint8_t code;
        uint8_t unused;
};

struct chd_reader {
        _Alignas(64) _Atomic uint64_t position; /* the next ticket it wants */
        _Atomic uint32_t asleep;
};

struct chd_ring {
        uint64_t magic;
        uint8_t instance[16]; /* random; with the boot's number it makes the boot id */

        /* One boot; changed only while no vCPU runs. */
        uint64_t start_nsec;                   /* CLOCK_MONOTONIC */
        uint64_t log_nsec;                     /* CLOCK_MONOTONIC when the log of it began */
        _Atomic uint64_t first_entry_nsec;     /* CLOCK_MONOTONIC, 0 before */
        uint64_t first_ticket;
        uint32_t boot;
        uint32_t drop_when_full;

        _Alignas(64) _Atomic uint64_t head; /* the next ticket */
        _Atomic uint64_t dropped;
        _Atomic uint64_t stalled_nsec;
        _Atomic uint64_t skipped; /* signals that were never sent; the daemon counts */
        _Atomic uint8_t last_code;
        _Atomic uint32_t forbidden_call; /* the system call that ended the process, + 1; 0: none */
        _Atomic uint64_t held;       /* the first record to keep, + 1; 0: none is held */
        _Atomic uint64_t held_until; /* CLOCK_MONOTONIC: a dead daemon holds no guest up */
        uint64_t created_nsec;       /* CLOCK_MONOTONIC */

        struct chd_reader readers[CHD_READERS];
        struct chd_record records[CHD_RING_CAPACITY];
};

#define chd_load(field) atomic_load_explicit(field, memory_order_acquire)
#define chd_store(field, value) atomic_store_explicit(field, value, memory_order_release)

static inline uint64_t chd_now(void)
{
        struct timespec ts;

        clock_gettime(CLOCK_MONOTONIC, &ts);
        return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static inline struct chd_record *chd_slot(struct chd_ring *ring, uint64_t ticket)
{
        return &ring->records[ticket & (CHD_RING_CAPACITY - 1)];
}

/* Up to where records may be overwritten: both durable readers have them behind them, and nobody
 * may want them again. */
static inline uint64_t chd_ring_durable(struct chd_ring *ring)
{
        uint64_t journal = chd_load(&ring->readers[CHD_READER_JOURNAL].position);
        uint64_t log = chd_load(&ring->readers[CHD_READER_LOG].position);
        uint64_t held = chd_load(&ring->held);
        uint64_t kept = journal > CHD_RING_KEPT ? journal - CHD_RING_KEPT : 0;

        if (held && held - 1 < kept && chd_now() < chd_load(&ring->held_until))
                kept = held - 1;
        return kept < log ? kept : log;
}

/* Put one event. Returns 1, or 0 where the ring is full and the guest must wait. */
static inline int chd_ring_put(struct chd_ring *ring, uint16_t vcpu, uint8_t code, uint64_t now)
{
        uint64_t ticket = atomic_load_explicit(&ring->head, memory_order_relaxed);
        struct chd_record *record;

        do {
                if (ticket - chd_ring_durable(ring) >= CHD_RING_CAPACITY) {
                        if (!ring->drop_when_full)
                                return 0;
                        atomic_fetch_add(&ring->dropped, 1);
                        return 1;
                }
        } while (!atomic_compare_exchange_weak(&ring->head, &ticket, ticket + 1));

        record = chd_slot(ring, ticket);
        atomic_store_explicit(&record->ticket, 0, memory_order_relaxed);
        chd_store(&record->elapsed_nsec, now - ring->start_nsec);
        chd_store(&record->seq, ticket - ring->first_ticket + 1);
        chd_store(&record->boot, ring->boot);
        chd_store(&record->vcpu, vcpu);
        chd_store(&record->code, code);
        chd_store(&record->ticket, ticket + 1);
        return 1;
}

static inline void chd_ring_tell(int eventfd)
{
        const uint64_t one = 1;
        /* It fails only when the counter is full: then the reader wakes anyway. */
        ssize_t written = write(eventfd, &one, sizeof(one));

        (void)written;
}

static inline void chd_ring_wake_one(struct chd_ring *ring, int reader, int eventfd)
{
        if (atomic_load(&ring->readers[reader].asleep) &&
            atomic_exchange(&ring->readers[reader].asleep, 0))
                chd_ring_tell(eventfd);
}

/* Wake the readers that sleep; call after chd_ring_put moved the head. */
static inline void chd_ring_wake(struct chd_ring *ring, int sinks, int signals)
{
        chd_ring_wake_one(ring, CHD_READER_JOURNAL, sinks);
        chd_ring_wake_one(ring, CHD_READER_LOG, sinks);
        chd_ring_wake_one(ring, CHD_READER_SIGNALS, signals);
}

#endif
