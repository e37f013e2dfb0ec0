/* SPDX-License-Identifier: Apache-2.0
 *
 * How a device interrupts its guest: by MSI-X, or by a wire that it shares.
 */
#ifndef CHD_INTERRUPT_H
#define CHD_INTERRUPT_H

#include <linux/kvm.h>
#include <sys/ioctl.h>

#include "engine.h"

static void chd_line_init(struct chd_line *line)
{
        pthread_mutex_init(&line->lock, NULL);
}

static void chd_line_hold(struct chd_line *line, uint32_t bit, int level)
{
        struct kvm_irq_level pin = { .irq = line->gsi, .level = level ? 1 : 0 };
        uint32_t before;

        pthread_mutex_lock(&line->lock);
        before = line->holders;
        line->holders = level ? before | bit : before & ~bit;
        if (!before != !line->holders)
                ioctl(line->vm_fd, KVM_IRQ_LINE, &pin);
        pthread_mutex_unlock(&line->lock);
}

static void chd_update_line(struct chd_engine *engine)
{
        int level = engine->isr && !engine->msix_on && !engine->intx_off;

        chd_line_hold(engine->line, engine->line_bit, level);
}

/* A message that the guest made up goes nowhere; KVM says so, and it is the guest's loss. */
static void chd_send(struct chd_engine *engine, struct chd_vector *vector)
{
        struct kvm_msi msi = {
                .address_lo = (uint32_t)vector->address,
                .address_hi = (uint32_t)(vector->address >> 32),
                .data = vector->data,
        };

        if (engine->msix_masked || vector->masked) {
                vector->pending = 1;
                return;
        }
        vector->pending = 0;
        ioctl(engine->vm_fd, KVM_SIGNAL_MSI, &msi);
}

static void chd_interrupt(struct chd_engine *engine, uint16_t vector, uint32_t isr)
{
        pthread_mutex_lock(&engine->wires);
        if (!engine->msix_on) {
                engine->isr |= isr;
                chd_update_line(engine);
        } else if (vector < CHD_VECTORS) {
                chd_send(engine, &engine->vectors[vector]);
        }
        pthread_mutex_unlock(&engine->wires);
}

static void chd_engine_set_vector(struct chd_engine *engine, int index, uint64_t address,
                                  uint32_t data, int masked)
{
        struct chd_vector *vector = &engine->vectors[index];

        pthread_mutex_lock(&engine->wires);
        vector->address = address;
        vector->data = data;
        vector->masked = masked;
        if (vector->pending && engine->msix_on)
                chd_send(engine, vector);
        pthread_mutex_unlock(&engine->wires);
}

static void chd_engine_set_interrupts(struct chd_engine *engine, int msix_on, int msix_masked,
                                      int intx_off)
{
        pthread_mutex_lock(&engine->wires);
        engine->msix_on = msix_on;
        engine->msix_masked = msix_masked;
        engine->intx_off = intx_off;
        for (int i = 0; msix_on && i < CHD_VECTORS; i++)
                if (engine->vectors[i].pending)
                        chd_send(engine, &engine->vectors[i]);
        chd_update_line(engine);
        pthread_mutex_unlock(&engine->wires);
}

/* Read and clear the interrupt status, which lowers the wire. */
static int chd_engine_take_isr(struct chd_engine *engine)
{
        uint32_t isr;

        pthread_mutex_lock(&engine->wires);
        isr = engine->isr;
        engine->isr = 0;
        chd_update_line(engine);
        pthread_mutex_unlock(&engine->wires);
        return (int)isr;
}

#endif
