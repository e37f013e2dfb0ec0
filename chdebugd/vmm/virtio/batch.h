/* SPDX-License-Identifier: Apache-2.0
 *
 * Reads, or writes, that follow each other on the disk, gathered into one
 * system call: of small requests it is what costs most.
 */
#ifndef CHD_BATCH_H
#define CHD_BATCH_H

#include <errno.h>
#include <sys/uio.h>

#include "queue.h"

#define CHD_BATCH_PARTS 1024        /* UIO_MAXIOV, what preadv(2) takes */
#define CHD_BATCH_BYTES (1ull << 20) /* a longer request is a batch of its own */

enum { CHD_BLOCK_OK, CHD_BLOCK_IOERR, CHD_BLOCK_UNSUPP };

struct chd_batched {
        uint16_t head;
        int n_parts;
        uint64_t bytes;
        uint8_t *status;
};

struct chd_batch {
        int is_write;
        uint64_t offset; /* on the disk, in bytes */
        uint64_t bytes;
        int n_parts;
        int n_requests;
        struct chd_batched requests[CHD_QUEUE_MAX];
        struct iovec parts[CHD_BATCH_PARTS];
};

/* All of the parts to or from the image. Returns how much was moved; where that is not all, `error`
 * is the errno. */
static uint64_t chd_move(int fd, struct iovec *parts, int n, uint64_t offset, int is_write,
                         int *error)
{
        uint64_t start = offset;

        while (n) {
                ssize_t result = is_write ? pwritev(fd, parts, n, (off_t)offset)
                                          : preadv(fd, parts, n, (off_t)offset);
                size_t moved = (size_t)result;

                if (result < 0 && errno == EINTR)
                        continue;
                if (result <= 0) {
                        *error = result ? errno : EIO; /* the image became shorter */
                        break;
                }
                offset += moved;
                for (; n && moved >= parts->iov_len; parts++, n--)
                        moved -= parts->iov_len;
                if (n) {
                        parts->iov_base = (uint8_t *)parts->iov_base + moved;
                        parts->iov_len -= moved;
                }
        }
        return offset - start;
}

/* Do all that is gathered, and give each request back. One that fails fails alone: those behind it
 * are tried again. Returns how many failed; `error` is the errno of the last. */
static int chd_batch_finish(struct chd_batch *batch, int fd, struct chd_queue *queue, int *error)
{
        struct iovec *parts = batch->parts;
        int n_failed = 0;

        for (int at = 0; at < batch->n_requests;) {
                uint64_t moved = chd_move(fd, parts, batch->n_parts, batch->offset,
                                          batch->is_write, error);
                int fails = 0;

                for (; at < batch->n_requests && !fails; at++) {
                        const struct chd_batched *request = &batch->requests[at];

                        fails = moved < request->bytes;
                        moved -= request->bytes;
                        n_failed += fails;
                        *request->status = fails ? CHD_BLOCK_IOERR : CHD_BLOCK_OK;
                        chd_queue_put(queue, request->head,
                                      fails || batch->is_write ? 1 : (uint32_t)request->bytes + 1);
                        parts += request->n_parts;
                        batch->n_parts -= request->n_parts;
                        batch->offset += request->bytes;
                }
        }
        batch->n_requests = batch->n_parts = 0;
        batch->bytes = 0;
        return n_failed;
}

/* Whether a request belongs behind those that are gathered. */
static int chd_batch_takes(const struct chd_batch *batch, int is_write, uint64_t offset, int n_parts,
                           uint64_t bytes)
{
        return !batch->n_requests ||
               (is_write == batch->is_write && offset == batch->offset + batch->bytes &&
                batch->n_parts + n_parts <= CHD_BATCH_PARTS &&
                batch->bytes + bytes <= CHD_BATCH_BYTES);
}

/* Gather one that chd_batch_takes. */
static void chd_batch_add(struct chd_batch *batch, int is_write, uint64_t offset,
                          const struct iovec *parts, int n_parts, struct chd_batched request)
{
        if (!batch->n_requests) {
                batch->is_write = is_write;
                batch->offset = offset;
        }
        request.n_parts = 0;
        for (int i = 0; i < n_parts; i++) {
                if (!parts[i].iov_len)
                        continue;
                batch->parts[batch->n_parts++] = parts[i];
                request.n_parts++;
        }
        batch->bytes += request.bytes;
        batch->requests[batch->n_requests++] = request;
}

#endif
