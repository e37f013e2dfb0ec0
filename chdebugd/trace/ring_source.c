/* SPDX-License-Identifier: Apache-2.0
 *
 * What readers of the event ring need; see ring.h for the rules.
 */
#include "ring.h"

static uint64_t chd_ring_size(void)
{
        return sizeof(struct chd_ring);
}

/* Copy the record of `ticket`. Returns 0 where it was overwritten meanwhile. */
static int chd_record_copy(struct chd_record *record, uint64_t ticket, struct chd_event *out)
{
        out->elapsed_nsec = chd_load(&record->elapsed_nsec);
        out->seq = chd_load(&record->seq);
        out->boot = chd_load(&record->boot);
        out->vcpu = chd_load(&record->vcpu);
        out->code = chd_load(&record->code);
        out->ticket = ticket;
        return atomic_load_explicit(&record->ticket, memory_order_relaxed) == ticket;
}

/* Copy whole records from `position` on, at most `max`, and return how many.
 * `*lost` says how many before them were overwritten; it is at most what the
 * head has moved on. The position itself stays as it is. */
static int chd_ring_copy(struct chd_ring *ring, uint64_t position, struct chd_event *out, int max,
                         uint64_t *lost)
{
        uint64_t head = chd_load(&ring->head);
        int count = 0;

        *lost = 0;
        if (head > position && head - position > CHD_RING_CAPACITY) {
                *lost = head - position - CHD_RING_CAPACITY;
                position += *lost;
        }
        while (count < max && position < head) {
                struct chd_record *record = chd_slot(ring, position);
                uint64_t ticket = chd_load(&record->ticket);

                if (ticket != position + 1) {
                        if (ticket <= position || count)
                                break; /* not whole yet, or hand over what we have first */
                        position++;    /* overtaken while we looked */
                        ++*lost;
                        continue;
                }
                if (chd_record_copy(record, ticket, &out[count])) {
                        count++;
                        position++;
                }
        }
        return count;
}

/* Say that `reader` sleeps, having read up to `position`. Returns 0 where there is more: then it is
 * awake. */
static int chd_ring_sleep(struct chd_ring *ring, int reader, uint64_t position)
{
        struct chd_reader *r = &ring->readers[reader];

        atomic_store(&r->asleep, 1);
        if (atomic_load(&ring->head) == position)
                return 1;
        atomic_store(&r->asleep, 0);
        return 0;
}

static void chd_ring_start_boot(struct chd_ring *ring, uint64_t start_nsec, uint64_t log_nsec)
{
        ring->boot++;
        ring->log_nsec = log_nsec;
        ring->start_nsec = start_nsec;
        ring->first_ticket = atomic_load(&ring->head);
        atomic_store(&ring->first_entry_nsec, 0);
}

static uint64_t chd_ring_head(struct chd_ring *ring)
{
        return atomic_load(&ring->head);
}

static uint64_t chd_ring_position(struct chd_ring *ring, int reader)
{
        return atomic_load(&ring->readers[reader].position);
}

static void chd_ring_move(struct chd_ring *ring, int reader, uint64_t position)
{
        chd_store(&ring->readers[reader].position, position);
}

/* How many records are in the way of a producer. */
static uint64_t chd_ring_used(struct chd_ring *ring)
{
        return atomic_load(&ring->head) - chd_ring_durable(ring);
}

/* Keep the records from `held - 1` on until then (CLOCK_MONOTONIC), or none where it is 0. */
static void chd_ring_hold(struct chd_ring *ring, uint64_t held, uint64_t until)
{
        chd_store(&ring->held_until, until);
        chd_store(&ring->held, held);
}

static uint64_t chd_ring_held(struct chd_ring *ring)
{
        return chd_load(&ring->held);
}

static uint64_t chd_ring_dropped(struct chd_ring *ring)
{
        return atomic_load(&ring->dropped);
}

static uint64_t chd_ring_stalled_nsec(struct chd_ring *ring)
{
        return atomic_load(&ring->stalled_nsec);
}

static uint64_t chd_ring_skip(struct chd_ring *ring, uint64_t count)
{
        return atomic_fetch_add(&ring->skipped, count) + count;
}

static uint64_t chd_ring_first_entry_nsec(struct chd_ring *ring)
{
        return atomic_load(&ring->first_entry_nsec);
}

static uint32_t chd_ring_forbidden_call(struct chd_ring *ring)
{
        return atomic_load(&ring->forbidden_call);
}

static int chd_ring_last_code(struct chd_ring *ring)
{
        return atomic_load(&ring->last_code);
}

/* For tests and for benchmarks of the readers: what a vCPU does for one byte. */
static int chd_ring_write(struct chd_ring *ring, int vcpu, int code, int wake_sinks,
                          int wake_signals)
{
        int done = chd_ring_put(ring, (uint16_t)vcpu, (uint8_t)code, chd_now());

        chd_ring_wake(ring, wake_sinks, wake_signals);
        return done;
}

#include "journal_drain.h"
