/* SPDX-License-Identifier: Apache-2.0
 *
 * Producers and all three readers on one ring at full speed, for the sanitizers and for the rules of
 * ring.h: the durable readers see every event once, whole and in order; the reader that may be
 * lapped sees whole events only, and seen + lost is all there were; who sleeps is woken.
 *
 * Usage: ring_race PRODUCERS EVENTS. Prints what the lapped reader lost; the exit status is 0 where
 * all rules held. A lost wake-up hangs, and the alarm ends it.
 */
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#include "ring_source.c"

#define PRODUCERS_MAX 16
#define BATCH 512
#define TIMEOUT 300 /* seconds */

static struct chd_ring *ring;
static int wake_sinks[2], wake_signals; /* here each durable reader has its own eventfd */
static int n_producers;
static uint64_t n_events; /* each */

#define require(condition)                                                                     \
        do {                                                                                   \
                if (!(condition)) {                                                            \
                        fprintf(stderr, "%s:%d: not so: %s\n", __func__, __LINE__, #condition); \
                        abort();                                                               \
                }                                                                              \
        } while (0)

static uint64_t total(void)
{
        return n_producers * n_events;
}

static void wake(void)
{
        chd_ring_wake_one(ring, CHD_READER_JOURNAL, wake_sinks[0]);
        chd_ring_wake_one(ring, CHD_READER_LOG, wake_sinks[1]);
        chd_ring_wake_one(ring, CHD_READER_SIGNALS, wake_signals);
}

/* Event number i of a producer is stamped i and carries the low byte of i. */
static void *produce(void *argument)
{
        uint16_t vcpu = (uint16_t)(uintptr_t)argument;

        for (uint64_t i = 0; i < n_events; i++) {
                while (!chd_ring_put(ring, vcpu, (uint8_t)i, ring->start_nsec + i)) {
                        wake();
                        sched_yield();
                }
                wake();
                if (i % 1000 == 999)
                        sched_yield(); /* now and then all readers get to sleep */
        }
        return NULL;
}

/* Whole, and behind what this producer wrote before. */
static void check(const struct chd_event *event, uint64_t *next, int may_skip)
{
        require(event->vcpu < n_producers);
        require(event->code == (uint8_t)event->elapsed_nsec);
        require(event->seq == event->ticket);
        require(event->boot == 1);
        require(may_skip ? event->elapsed_nsec >= next[event->vcpu]
                         : event->elapsed_nsec == next[event->vcpu]);
        next[event->vcpu] = event->elapsed_nsec + 1;
}

static void sleep_until_woken(int reader, int fd, uint64_t position)
{
        struct pollfd waits = { .fd = fd, .events = POLLIN };
        uint64_t count;

        if (!chd_ring_sleep(ring, reader, position))
                return;
        require(poll(&waits, 1, -1) == 1);
        require(read(fd, &count, sizeof(count)) == sizeof(count));
}

static void *read_all(void *argument)
{
        int reader = (int)(uintptr_t)argument;
        int fd = reader == CHD_READER_SIGNALS ? wake_signals : wake_sinks[reader];
        uint64_t next[PRODUCERS_MAX] = { 0 }, position = 0, lost_in_all = 0;
        struct chd_event events[BATCH];

        while (reader == CHD_READER_SIGNALS && chd_ring_head(ring) < 2 * CHD_RING_CAPACITY)
                usleep(1000); /* it begins when it is lapped */
        while (position < total()) {
                uint64_t lost;
                int count = chd_ring_copy(ring, position, events, BATCH, &lost);

                require(!lost || reader == CHD_READER_SIGNALS);
                for (int i = 0; i < count; i++) {
                        require(events[i].ticket == position + lost + i + 1);
                        check(&events[i], next, reader == CHD_READER_SIGNALS);
                }
                lost_in_all += lost;
                position += lost + count;
                chd_ring_move(ring, reader, position);
                if (!count && !lost)
                        sleep_until_woken(reader, fd, position);
                else if (reader == CHD_READER_SIGNALS)
                        usleep(2000); /* and is slow enough to be lapped again */
        }
        require(position == total());
        return (void *)(uintptr_t)lost_in_all;
}

int main(int argc, char **argv)
{
        pthread_t producers[PRODUCERS_MAX], readers[CHD_READERS];
        void *lost = NULL;

        require(argc == 3);
        n_producers = atoi(argv[1]);
        n_events = strtoull(argv[2], NULL, 10);
        require(n_producers > 0 && n_producers <= PRODUCERS_MAX);
        alarm(TIMEOUT);
        ring = mmap(NULL, chd_ring_size(), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        require(ring != MAP_FAILED);
        chd_ring_start_boot(ring, chd_now(), chd_now());
        wake_sinks[0] = eventfd(0, EFD_NONBLOCK);
        wake_sinks[1] = eventfd(0, EFD_NONBLOCK);
        wake_signals = eventfd(0, EFD_NONBLOCK);
        for (uintptr_t i = 0; i < CHD_READERS; i++)
                require(!pthread_create(&readers[i], NULL, read_all, (void *)i));
        for (uintptr_t i = 0; i < (uintptr_t)n_producers; i++)
                require(!pthread_create(&producers[i], NULL, produce, (void *)i));
        for (int i = 0; i < n_producers; i++)
                pthread_join(producers[i], NULL);
        for (int i = 0; i < CHD_READERS; i++)
                pthread_join(readers[i], &lost);
        require(chd_ring_head(ring) == total());
        printf("%llu\n", (unsigned long long)(uintptr_t)lost);
        return 0;
}
