/* SPDX-License-Identifier: Apache-2.0
 *
 * A hostile driver in guest memory: random queues, tables and requests for the data path of each
 * kind of virtio device. Guest memory lies in blocks of its own, so that the address sanitizer
 * sees each byte beside it. Arguments: seed, rounds. Prints how many chains were served.
 */
#define _GNU_SOURCE
#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "engine_source.c"

#define LOW_SIZE 0x8000u
#define HIGH_START (4ull << 30)
#define HIGH_SIZE 0x4000u
#define DISK_SIZE 0x10000u

static uint64_t state;
static uint64_t served;

/* xorshift64* (Vigna, 2016) */
static uint64_t next_random(void)
{
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        return state * 0x2545f4914f6cdd1dull;
}

static uint64_t below(uint64_t limit)
{
        return next_random() % limit;
}

static int one_in(uint64_t n)
{
        return !below(n);
}

/* In memory mostly; at its edges, in the hole or anywhere else at times. */
static uint64_t address(void)
{
        static const uint64_t edges[] = { 0, LOW_SIZE - 1, LOW_SIZE, HIGH_START - 1, HIGH_START,
                                          HIGH_START + HIGH_SIZE - 1, UINT64_MAX, 1ull << 63 };

        if (one_in(30))
                return edges[below(sizeof(edges) / sizeof(*edges))];
        if (one_in(50))
                return next_random();
        return one_in(4) ? HIGH_START + below(HIGH_SIZE) : below(LOW_SIZE);
}

static uint32_t length(void)
{
        static const uint32_t usual[] = { 0, 1, 12, 16, 16, 512, 512, 1024, 24 };

        if (one_in(100))
                return (uint32_t)next_random();
        return one_in(10) ? (uint32_t)below(0x2000) : usual[below(sizeof(usual) / sizeof(*usual))];
}

static void fill_table(struct chd_descriptor *table, uint32_t size)
{
        for (uint32_t i = 0; i < size; i++) {
                table[i].address = address();
                table[i].length = length();
                table[i].flags = (uint16_t)(one_in(40) ? next_random() : below(4));
                table[i].next = (uint16_t)(one_in(40) ? next_random() : below(size));
                if (one_in(10)) {
                        table[i].flags = CHD_DESC_INDIRECT;
                        table[i].length = (uint32_t)below(20) * 16;
                }
        }
}

/* Every third entry begins a request as a driver would make it: header, data, status. */
static void fill_requests(struct chd_descriptor *table, uint32_t size)
{
        for (uint32_t i = 0; i + 2 < size; i += 3) {
                uint16_t flags = one_in(2) ? CHD_DESC_WRITE : 0;

                table[i] = (struct chd_descriptor){ below(LOW_SIZE / 16) * 16, 16, CHD_DESC_NEXT,
                                                    (uint16_t)(i + 1) };
                table[i + 1] = (struct chd_descriptor){ address(), length(), CHD_DESC_NEXT | flags,
                                                        (uint16_t)(i + 2) };
                table[i + 2] = (struct chd_descriptor){ address(), 1, CHD_DESC_WRITE, 0 };
        }
}

/* What a disk's header asks for, at a place that tables point to. */
static void write_headers(uint8_t *memory)
{
        static const uint32_t types[] = { 0, 1, 4, 8, 11, 13, 99 };

        for (int i = 0; i < 400; i++) {
                struct chd_block_header header = { types[below(7)], 0,
                                                   one_in(10) ? next_random() : below(140) };

                memcpy(memory + 16 * below(LOW_SIZE / 16), &header, sizeof(header));
        }
}

static void attack(struct chd_engine *engine)
{
        uint8_t *low = engine->ram.ranges[0].host;

        chd_engine_reset(engine);
        engine->features = next_random() & (CHD_F_INDIRECT_DESC | CHD_F_EVENT_IDX);
        engine->msix_on = one_in(2);
        for (int i = 0; i < engine->n_queues; i++) {
                struct chd_queue *queue = &engine->queues[i];
                uint32_t size = one_in(20) ? (uint32_t)next_random() : 1u << below(9);

                chd_engine_start_queue(engine, i, size, address() & -16ull, address() & -2ull,
                                       address() & -4ull);
                if (!queue->size)
                        continue;
                fill_table(queue->table, queue->size);
                for (uint32_t at = 0; at < queue->size; at++)
                        queue->avail->ring[at] = (uint16_t)below(queue->size + one_in(50));
                if (!one_in(3)) {
                        fill_requests(queue->table, queue->size);
                        for (uint32_t at = 0; at < queue->size; at++)
                                queue->avail->ring[at] = (uint16_t)(at / 3 * 3);
                }
                queue->avail->index = (uint16_t)below(queue->size + 1 + one_in(50));
        }
        write_headers(low);
        for (int i = 0; i < 4 && chd_serve_all(engine); i++)
                ;
        for (int i = 0; i < engine->n_queues; i++)
                served += engine->queues[i].done;
}

static void serve_kind(int kind, uint64_t rounds)
{
        struct chd_line line = { .vm_fd = -1 };
        struct chd_engine engine = { .kind = kind, .vm_fd = -1, .line = &line, .line_bit = 1 };
        struct stat info;
        uint8_t drained[2048];
        int ends[2];

        chd_line_init(&line);
        pthread_mutex_init(&engine.wires, NULL);
        pthread_mutex_init(&engine.work, NULL);
        pthread_cond_init(&engine.free, NULL);
        engine.kick = -1;
        engine.n_queues = kind == CHD_NET ? 2 : 1;
        engine.ram.ranges[0] = (struct chd_range){ 0, LOW_SIZE, calloc(1, LOW_SIZE) };
        engine.ram.ranges[1] = (struct chd_range){ HIGH_START, HIGH_SIZE, calloc(1, HIGH_SIZE) };
        engine.block = (struct chd_block){ .fd = memfd_create("disk", 0),
                                           .sectors = DISK_SIZE / 512,
                                           .id = "disk" };
        assert(!ftruncate(engine.block.fd, DISK_SIZE));
        assert(!socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, ends));
        engine.net.fd = ends[0];
        engine.net.packet = malloc(CHD_PACKET_MAX);
        while (rounds--) {
                engine.block.readonly = one_in(4);
                engine.net.has_header = one_in(2);
                attack(&engine);
                while (read(ends[1], drained, sizeof(drained)) >= 0)
                        ;
                if (write(ends[1], drained, 1 + below(sizeof(drained))) < 0)
                        assert(errno == EAGAIN);
        }
        assert(!fstat(engine.block.fd, &info) && info.st_size == DISK_SIZE);
        close(engine.block.fd);
        close(ends[0]);
        close(ends[1]);
        free(engine.ram.ranges[0].host);
        free(engine.ram.ranges[1].host);
        free(engine.net.packet);
}

int main(int argc, char **argv)
{
        assert(argc == 3);
        state = strtoull(argv[1], NULL, 10) | 1;
        for (int kind = CHD_BLOCK; kind <= CHD_NET; kind++)
                serve_kind(kind, strtoull(argv[2], NULL, 10) / 3);
        printf("%" PRIu64 "\n", served);
        return 0;
}
