/* SPDX-License-Identifier: Apache-2.0
 *
 * The data path of one virtio device: a thread that serves its queues without
 * Python, woken by an ioeventfd, and interrupts by MSI or by the INTx wire.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

#include "engine.h"
#include "entropy.h"
#include "filter.h"
#include "interrupt.h"

#define CHD_STACK (128 * 1024) /* bytes */

/* Serving */

/* Serve the chain that was taken, and give it back now or in chd_finish. Returns 0 or -EINVAL. */
static int chd_serve(struct chd_engine *engine, int index)
{
        struct chd_queue *queue = &engine->queues[index];
        int64_t length;

        if (engine->kind == CHD_BLOCK)
                return chd_block_serve(&engine->block, queue, &engine->chain);
        if (engine->kind == CHD_ENTROPY)
                length = chd_entropy_serve(&engine->chain);
        else if (index == CHD_NET_SEND)
                length = chd_net_send(&engine->net, &engine->chain);
        else
                length = chd_net_receive(&engine->net, &engine->chain);
        if (length < 0)
                return -EINVAL;
        chd_queue_put(queue, engine->chain.head, (uint32_t)length);
        return 0;
}

static void chd_finish(struct chd_engine *engine, int index)
{
        if (engine->kind == CHD_BLOCK)
                chd_block_finish(&engine->block, &engine->queues[index]);
}

static int chd_is_ready(struct chd_engine *engine, int index)
{
        int is_receive = engine->kind == CHD_NET && index == CHD_NET_RECEIVE;

        return !is_receive || chd_net_fetch(&engine->net);
}

static void chd_break(struct chd_engine *engine)
{
        atomic_store(&engine->broken, 1);
        chd_interrupt(engine, __atomic_load_n(&engine->config_vector, __ATOMIC_RELAXED),
                      CHD_ISR_CONFIG);
}

/* One round over a queue, no longer than it is. Returns whether there may be more to do. */
static int chd_serve_queue(struct chd_engine *engine, int index)
{
        struct chd_queue *queue = &engine->queues[index];
        int result = 1;

        chd_queue_listen(queue, engine->features, 0);
        for (uint32_t n = 0; n < queue->size && !atomic_load(&engine->holds); n++) {
                if (!chd_is_ready(engine, index))
                        break;
                result = chd_queue_take(queue, &engine->ram, engine->features, &engine->chain);
                if (result <= 0)
                        break;
                result = chd_serve(engine, index);
                if (result < 0)
                        break;
        }
        chd_finish(engine, index);
        if (chd_queue_signals(queue, engine->features))
                chd_interrupt(engine, __atomic_load_n(&queue->vector, __ATOMIC_RELAXED),
                              CHD_ISR_QUEUE);
        if (result < 0) {
                chd_break(engine);
                return 0;
        }
        return chd_queue_listen(queue, engine->features, 1) && chd_is_ready(engine, index);
}

static int chd_serve_all(struct chd_engine *engine)
{
        int more = 0;

        for (int i = 0; i < engine->n_queues && !atomic_load(&engine->broken); i++)
                if (engine->queues[i].size)
                        more |= chd_serve_queue(engine, i);
        return more && !atomic_load(&engine->broken);
}

/* Wait for the tap as well, where it may have something and there is room for it. */
static int chd_tap_comes_first(struct chd_engine *engine)
{
        struct pollfd polls[2] = { { .fd = engine->kick, .events = POLLIN },
                                   { .fd = engine->net.fd, .events = POLLIN } };

        poll(polls, 2, -1);
        return !polls[0].revents;
}

/* Sleep until the guest or the tap has something. */
static void chd_sleep(struct chd_engine *engine)
{
        int wants_packets = engine->kind == CHD_NET && engine->queues[CHD_NET_RECEIVE].size &&
                            !atomic_load(&engine->broken) && !engine->net.waiting &&
                            !engine->net.is_dead;
        uint64_t count;
        ssize_t got;

        pthread_mutex_unlock(&engine->work);
        if (!wants_packets || !chd_tap_comes_first(engine)) {
                got = read(engine->kick, &count, sizeof(count));
                (void)got;
        }
        pthread_mutex_lock(&engine->work);
}

static void *chd_engine_main(void *argument)
{
        struct chd_engine *engine = argument;

        /* Where it fails, vCPU threads fail as well, and say so. */
        if (chd_confine(NULL, false) < 0)
                return NULL;
        pthread_mutex_lock(&engine->work);
        while (!engine->stop) {
                if (atomic_load(&engine->holds))
                        pthread_cond_wait(&engine->free, &engine->work);
                else if (!chd_serve_all(engine))
                        chd_sleep(engine);
        }
        pthread_mutex_unlock(&engine->work);
        return NULL;
}

/* What Python calls */

static void chd_wake(struct chd_engine *engine)
{
        uint64_t one = 1;
        ssize_t written = write(engine->kick, &one, sizeof(one));

        (void)written;
}

/* Bring the thread to stand still; it does when this returns. */
static void chd_engine_hold(struct chd_engine *engine)
{
        atomic_fetch_add(&engine->holds, 1);
        pthread_mutex_lock(&engine->work);
        pthread_mutex_unlock(&engine->work);
}

/* Let it go on, where nobody else holds it. */
static void chd_engine_release(struct chd_engine *engine)
{
        pthread_mutex_lock(&engine->work);
        atomic_fetch_sub(&engine->holds, 1);
        pthread_cond_signal(&engine->free);
        pthread_mutex_unlock(&engine->work);
        chd_wake(engine); /* it may have slept through a notification meanwhile */
}

/* Start the thread, with all signals left to others. Returns 0 or -errno. */
static int chd_engine_start(struct chd_engine *engine, const char *name)
{
        pthread_attr_t attributes;
        sigset_t all;
        sigset_t before;
        int result;

        pthread_mutex_init(&engine->wires, NULL);
        pthread_mutex_init(&engine->work, NULL);
        pthread_cond_init(&engine->free, NULL);
        engine->config_vector = CHD_NO_VECTOR;
        for (int i = 0; i < CHD_VECTORS; i++)
                engine->vectors[i].masked = 1; /* as the MSI-X table says at first */
        sigfillset(&all);
        pthread_attr_init(&attributes);
        pthread_attr_setstacksize(&attributes, CHD_STACK);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        result = pthread_create(&engine->thread, &attributes, chd_engine_main, engine);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        pthread_attr_destroy(&attributes);
        engine->has_thread = !result;
        if (!result)
                pthread_setname_np(engine->thread, name);
        return -result;
}

/* End the thread and wait for it; after that the engine touches no memory. Twice is fine. */
static void chd_engine_stop(struct chd_engine *engine)
{
        if (!engine->has_thread)
                return;
        chd_engine_hold(engine);
        engine->stop = 1;
        chd_engine_release(engine);
        pthread_join(engine->thread, NULL);
        engine->has_thread = 0;
}

/* Serve queue `index` from now on. Returns 0, or -EINVAL where the driver set it up wrongly. */
static int chd_engine_start_queue(struct chd_engine *engine, int index, uint32_t size,
                                  uint64_t table, uint64_t avail, uint64_t used)
{
        int result;

        chd_engine_hold(engine);
        result = chd_queue_start(&engine->queues[index], &engine->ram, size, table, avail, used);
        if (result)
                engine->queues[index].size = 0;
        chd_engine_release(engine);
        if (result)
                chd_break(engine);
        return result;
}

/* Forget the queues and what the driver accepted. No guest memory is touched after this. */
static void chd_engine_reset(struct chd_engine *engine)
{
        chd_engine_hold(engine);
        for (int i = 0; i < CHD_QUEUES; i++) {
                engine->queues[i].size = 0;
                engine->queues[i].vector = CHD_NO_VECTOR;
        }
        engine->config_vector = CHD_NO_VECTOR;
        engine->features = 0;
        engine->net.waiting = 0;
        atomic_store(&engine->broken, 0);
        chd_engine_take_isr(engine);
        chd_engine_release(engine);
}

static int chd_engine_is_broken(struct chd_engine *engine)
{
        return atomic_load(&engine->broken);
}
