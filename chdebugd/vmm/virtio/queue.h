/* SPDX-License-Identifier: Apache-2.0
 *
 * A split virtqueue, seen from the device (virtio 1.2, section 2.7). The guest
 * writes it while we read: each field is read once and checked after that.
 */
#ifndef CHD_QUEUE_H
#define CHD_QUEUE_H

#include <errno.h>
#include <stdint.h>
#include <sys/uio.h>

#define CHD_QUEUE_MAX 256 /* entries; a chain has no more descriptors than that */
#define CHD_RANGES 2      /* RAM below and above the device hole */

#define CHD_F_INDIRECT_DESC (1ull << 28)
#define CHD_F_EVENT_IDX (1ull << 29)

enum { CHD_DESC_NEXT = 1, CHD_DESC_WRITE = 2, CHD_DESC_INDIRECT = 4 };
enum { CHD_AVAIL_NO_INTERRUPT = 1, CHD_USED_NO_NOTIFY = 1 };

/* Packed: an indirect table may lie at any address. */
struct chd_descriptor {
        uint64_t address;
        uint32_t length;
        uint16_t flags;
        uint16_t next;
} __attribute__((packed));

struct chd_avail {
        uint16_t flags;
        uint16_t index;
        uint16_t ring[]; /* then used_event */
};

struct chd_used {
        uint16_t flags;
        uint16_t index;
        struct {
                uint32_t id;
                uint32_t length;
        } ring[]; /* then avail_event */
};

/* Guest RAM and where this process has it. */
struct chd_range {
        uint64_t gpa;
        uint64_t size;
        uint8_t *host;
};

struct chd_queue {
        uint32_t size; /* 0: not started */
        uint16_t vector;
        uint16_t next;      /* of the avail ring, to take */
        uint16_t done;      /* of the used ring, to fill */
        uint16_t signalled; /* value of `done` at the last interrupt */
        struct chd_descriptor *table;
        struct chd_avail *avail;
        struct chd_used *used;
};

/* What one chain says: parts the device reads, then parts it writes. */
struct chd_chain {
        uint16_t head;
        int n_out;
        int n_in;
        uint64_t out_bytes;
        uint64_t in_bytes;
        struct iovec *in; /* parts + n_out */
        struct iovec parts[CHD_QUEUE_MAX];
};

struct chd_ram {
        struct chd_range ranges[CHD_RANGES];
};

/* Where guest addresses lie in this process; NULL where not all of them are in one range. */
static void *chd_at(const struct chd_ram *ram, uint64_t gpa, uint64_t size)
{
        for (int i = 0; i < CHD_RANGES; i++) {
                const struct chd_range *range = &ram->ranges[i];

                if (gpa >= range->gpa && size <= range->size &&
                    gpa - range->gpa <= range->size - size)
                        return range->host + (gpa - range->gpa);
        }
        return NULL;
}

/* Begin to serve a queue. Returns 0, or -EINVAL where size, place or alignment is wrong. */
static int chd_queue_start(struct chd_queue *queue, const struct chd_ram *ram, uint32_t size,
                           uint64_t table, uint64_t avail, uint64_t used)
{
        if (!size || size > CHD_QUEUE_MAX || size & (size - 1) || table % 16 || avail % 2 ||
            used % 4)
                return -EINVAL;
        queue->table = chd_at(ram, table, 16ull * size);
        queue->avail = chd_at(ram, avail, 6 + 2ull * size);
        queue->used = chd_at(ram, used, 6 + 8ull * size);
        if (!queue->table || !queue->avail || !queue->used)
                return -EINVAL;
        queue->next = queue->done = queue->signalled = 0;
        queue->size = size;
        return 0;
}

/* Add one descriptor's memory to the chain. Returns 0, or -EINVAL. */
static int chd_chain_add(struct chd_chain *chain, const struct chd_ram *ram,
                         const struct chd_descriptor *descriptor)
{
        struct iovec *part = &chain->parts[chain->n_out + chain->n_in];
        int is_in = descriptor->flags & CHD_DESC_WRITE;

        if (chain->n_out + chain->n_in == CHD_QUEUE_MAX || (chain->n_in && !is_in))
                return -EINVAL;
        part->iov_len = descriptor->length;
        part->iov_base = chd_at(ram, descriptor->address, descriptor->length);
        if (!part->iov_base)
                return -EINVAL;
        if (is_in) {
                chain->n_in++;
                chain->in_bytes += part->iov_len;
        } else {
                chain->n_out++;
                chain->out_bytes += part->iov_len;
        }
        return 0;
}

/* Follow a chain from `at` in a table of `size`; one descriptor may lead to a table of its own. */
static int chd_chain_walk(struct chd_chain *chain, const struct chd_ram *ram, uint64_t features,
                          const struct chd_descriptor *table, uint32_t size, uint32_t at,
                          int is_indirect)
{
        for (uint32_t steps = 0; steps < size; steps++) {
                struct chd_descriptor descriptor;

                if (at >= size)
                        return -EINVAL;
                descriptor = *(const volatile struct chd_descriptor *)&table[at];
                if (descriptor.flags & CHD_DESC_INDIRECT) {
                        const struct chd_descriptor *inner;

                        if (is_indirect || !(features & CHD_F_INDIRECT_DESC) ||
                            descriptor.flags & CHD_DESC_NEXT || descriptor.length % 16 ||
                            descriptor.length > 16 * CHD_QUEUE_MAX)
                                return -EINVAL;
                        inner = chd_at(ram, descriptor.address, descriptor.length);
                        if (!inner)
                                return -EINVAL;
                        return chd_chain_walk(chain, ram, features, inner,
                                              descriptor.length / 16, 0, 1);
                }
                if (chd_chain_add(chain, ram, &descriptor) < 0)
                        return -EINVAL;
                if (!(descriptor.flags & CHD_DESC_NEXT))
                        return 0;
                at = descriptor.next;
        }
        return -EINVAL; /* a loop, or no end */
}

/* Take the next chain. Returns 1, 0 where there is none, or -EINVAL where the guest broke the rules. */
static int chd_queue_take(struct chd_queue *queue, const struct chd_ram *ram, uint64_t features,
                          struct chd_chain *chain)
{
        uint16_t index = __atomic_load_n(&queue->avail->index, __ATOMIC_ACQUIRE);
        uint16_t ready = (uint16_t)(index - queue->next);
        int result;

        if (!ready)
                return 0;
        if (ready > queue->size)
                return -EINVAL;
        chain->head = __atomic_load_n(&queue->avail->ring[queue->next % queue->size],
                                      __ATOMIC_RELAXED);
        chain->n_out = chain->n_in = 0;
        chain->out_bytes = chain->in_bytes = 0;
        result = chd_chain_walk(chain, ram, features, queue->table, queue->size, chain->head, 0);
        if (result < 0)
                return result;
        chain->in = chain->parts + chain->n_out;
        queue->next++;
        return 1;
}

/* Give a chain back, `length` bytes of it written. */
static void chd_queue_put(struct chd_queue *queue, uint16_t head, uint32_t length)
{
        uint32_t at = queue->done % queue->size;

        queue->used->ring[at].id = head;
        queue->used->ring[at].length = length;
        queue->done++;
        __atomic_store_n(&queue->used->index, queue->done, __ATOMIC_RELEASE);
}

/* Ask for notifications, or say that none are needed. Returns whether there is work again. */
static int chd_queue_listen(struct chd_queue *queue, uint64_t features, int listen)
{
        if (features & CHD_F_EVENT_IDX) {
                uint16_t *avail_event = (uint16_t *)&queue->used->ring[queue->size];

                if (listen)
                        __atomic_store_n(avail_event, queue->next, __ATOMIC_RELAXED);
        } else {
                __atomic_store_n(&queue->used->flags, listen ? 0 : CHD_USED_NO_NOTIFY,
                                 __ATOMIC_RELAXED);
        }
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        return __atomic_load_n(&queue->avail->index, __ATOMIC_ACQUIRE) != queue->next;
}

/* Whether the guest wants to be told of what was put since the last time (section 2.7.7.2). */
static int chd_queue_signals(struct chd_queue *queue, uint64_t features)
{
        uint16_t before = queue->signalled;
        uint16_t now = queue->done;

        if (before == now)
                return 0;
        queue->signalled = now;
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        if (features & CHD_F_EVENT_IDX) {
                uint16_t used_event =
                        __atomic_load_n(&queue->avail->ring[queue->size], __ATOMIC_RELAXED);

                return (uint16_t)(now - used_event - 1) < (uint16_t)(now - before);
        }
        return !(__atomic_load_n(&queue->avail->flags, __ATOMIC_RELAXED) & CHD_AVAIL_NO_INTERRUPT);
}

/* Copy the first `size` bytes out of some parts, and leave what follows. Returns 0 or -EINVAL. */
static int chd_parts_read(struct iovec *parts, int n, void *target, size_t size)
{
        uint8_t *at = target;

        for (int i = 0; size && i < n; i++) {
                size_t some = parts[i].iov_len < size ? parts[i].iov_len : size;

                __builtin_memcpy(at, parts[i].iov_base, some);
                parts[i].iov_base = (uint8_t *)parts[i].iov_base + some;
                parts[i].iov_len -= some;
                at += some;
                size -= some;
        }
        return size ? -EINVAL : 0;
}

/* Copy into the parts as much as fits. Returns how much. */
static size_t chd_parts_write(const struct iovec *parts, int n, const void *source, size_t size)
{
        const uint8_t *at = source;

        for (int i = 0; size && i < n; i++) {
                size_t some = parts[i].iov_len < size ? parts[i].iov_len : size;

                __builtin_memcpy(parts[i].iov_base, at, some);
                at += some;
                size -= some;
        }
        return (size_t)(at - (const uint8_t *)source);
}

#endif
