/* SPDX-License-Identifier: Apache-2.0
 *
 * One virtio device as its thread has it.
 *
 * Two locks. `work` is held by whoever touches queues: the thread while it
 * serves, a vCPU while it changes them. `wires` guards interrupt state and is
 * taken last. `holds` counts those who wait for `work` or want the thread to
 * stand still; the thread looks at it between two requests.
 */
#ifndef CHD_ENGINE_H
#define CHD_ENGINE_H

#include <pthread.h>
#include <stdatomic.h>

#include "block.h"
#include "net.h"
#include "queue.h"

#define CHD_QUEUES 2
#define CHD_VECTORS (CHD_QUEUES + 1)
#define CHD_NO_VECTOR 0xffff
#define CHD_ISR_QUEUE 1
#define CHD_ISR_CONFIG 2

enum { CHD_BLOCK, CHD_ENTROPY, CHD_NET };

/* A GSI that several devices hold high together. */
struct chd_line {
        int vm_fd;
        uint32_t gsi;
        uint32_t holders; /* a bit a device */
        pthread_mutex_t lock;
};

struct chd_vector {
        uint64_t address;
        uint32_t data;
        int masked;
        int pending;
};

struct chd_engine {
        int kind;
        int vm_fd;
        int kick; /* eventfd */
        int n_queues;
        uint64_t features; /* that the driver accepted */
        struct chd_ram ram;
        struct chd_block block;
        struct chd_net net;

        struct chd_line *line;
        uint32_t line_bit;
        uint16_t config_vector;
        int msix_on;
        int msix_masked;
        int intx_off;
        uint32_t isr;
        struct chd_vector vectors[CHD_VECTORS];
        pthread_mutex_t wires;

        _Atomic int holds;
        _Atomic int broken; /* the guest broke a rule; nothing is served until a reset */
        int stop;
        int has_thread;
        pthread_t thread;
        pthread_mutex_t work;
        pthread_cond_t free;
        struct chd_queue queues[CHD_QUEUES];
        struct chd_chain chain;
};

#endif
