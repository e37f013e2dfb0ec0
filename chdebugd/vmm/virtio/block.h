/* SPDX-License-Identifier: Apache-2.0
 *
 * A block device over a raw image (virtio 1.2, section 5.2).
 */
#ifndef CHD_BLOCK_H
#define CHD_BLOCK_H

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>
#include <unistd.h>

#include "batch.h"
#include "queue.h"

#define CHD_SECTOR 512
#define CHD_ID_BYTES 20
#define CHD_REQUEST_MAX (64u << 20) /* bytes; far beyond what the limits we tell allow */

enum {
        CHD_BLOCK_IN = 0,
        CHD_BLOCK_OUT = 1,
        CHD_BLOCK_FLUSH = 4,
        CHD_BLOCK_GET_ID = 8,
        CHD_BLOCK_DISCARD = 11,
        CHD_BLOCK_WRITE_ZEROES = 13,
};

struct chd_block {
        int fd;
        int readonly;
        uint64_t sectors;
        char id[CHD_ID_BYTES]; /* filled with zeros, not ended by one */
        int wake;              /* eventfd to write at the first failure of the host; 0: none */
        int error;             /* errno of the last one */
        uint64_t n_errors;
        struct chd_batch batch;
};

struct chd_block_header {
        uint32_t type;
        uint32_t reserved;
        uint64_t sector;
};

struct chd_block_range {
        uint64_t sector;
        uint32_t n_sectors;
        uint32_t flags;
};

/* The guest is told of an I/O error; why it was is for the host's ears. Returns the status. */
static int chd_block_failed(struct chd_block *block, int error)
{
        uint64_t one = 1;
        ssize_t written = 0;

        __atomic_store_n(&block->error, error, __ATOMIC_RELAXED);
        if (!__atomic_fetch_add(&block->n_errors, 1, __ATOMIC_RELEASE) && block->wake)
                written = write(block->wake, &one, sizeof(one));
        (void)written;
        return CHD_BLOCK_IOERR;
}

static int chd_block_holds(const struct chd_block *block, uint64_t sector, uint64_t bytes)
{
        uint64_t n_sectors = bytes / CHD_SECTOR;

        return bytes % CHD_SECTOR == 0 && bytes <= CHD_REQUEST_MAX && n_sectors <= block->sectors &&
               sector <= block->sectors - n_sectors;
}

static int chd_block_zero(int fd, uint64_t offset, uint64_t bytes)
{
        static const uint8_t zeros[1 << 16];

        while (bytes) {
                size_t some = bytes < sizeof(zeros) ? bytes : sizeof(zeros);
                ssize_t moved = pwrite(fd, zeros, some, (off_t)offset);

                if (moved < 0 && errno == EINTR)
                        continue;
                if (moved <= 0)
                        return moved ? -errno : -EIO;
                offset += (uint64_t)moved;
                bytes -= (uint64_t)moved;
        }
        return 0;
}

/* Discard gives space back; write-zeroes does so too where the file system can. */
static int chd_block_clear(struct chd_block *block, struct chd_chain *chain, uint32_t type)
{
        struct chd_block_range range;
        uint64_t offset;
        uint64_t bytes;
        int error;

        if (chain->out_bytes != sizeof(struct chd_block_header) + sizeof(range) ||
            chd_parts_read(chain->parts, chain->n_out, &range, sizeof(range)) < 0)
                return CHD_BLOCK_UNSUPP;
        offset = range.sector * CHD_SECTOR;
        bytes = (uint64_t)range.n_sectors * CHD_SECTOR;
        if (!chd_block_holds(block, range.sector, bytes))
                return CHD_BLOCK_IOERR;
        if (!bytes || !fallocate(block->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                 (off_t)offset, (off_t)bytes))
                return CHD_BLOCK_OK;
        if (type == CHD_BLOCK_DISCARD)
                return errno == EOPNOTSUPP ? CHD_BLOCK_OK : chd_block_failed(block, errno);
        error = -chd_block_zero(block->fd, offset, bytes);
        return error ? chd_block_failed(block, error) : CHD_BLOCK_OK;
}

/* Do what the header asks, unless it is to read or write what is on the disk. Returns the status,
 * and in `moved` the bytes written to the guest. */
static int chd_block_do(struct chd_block *block, const struct chd_block_header *header,
                        struct chd_chain *chain, uint32_t *moved)
{
        switch (header->type) {
        case CHD_BLOCK_IN:
        case CHD_BLOCK_OUT:
                return CHD_BLOCK_IOERR;
        case CHD_BLOCK_FLUSH:
                if (block->readonly || !fdatasync(block->fd))
                        return CHD_BLOCK_OK;
                return chd_block_failed(block, errno);
        case CHD_BLOCK_GET_ID:
                *moved = (uint32_t)chd_parts_write(chain->in, chain->n_in, block->id,
                                                   sizeof(block->id));
                return CHD_BLOCK_OK;
        case CHD_BLOCK_DISCARD:
        case CHD_BLOCK_WRITE_ZEROES:
                return block->readonly ? CHD_BLOCK_IOERR
                                       : chd_block_clear(block, chain, header->type);
        default:
                return CHD_BLOCK_UNSUPP;
        }
}

/* Do what was gathered, and give it back. */
static void chd_block_finish(struct chd_block *block, struct chd_queue *queue)
{
        int error = 0;

        for (int n = chd_batch_finish(&block->batch, block->fd, queue, &error); n; n--)
                chd_block_failed(block, error);
}

/* Gather a read or write of what is on the disk. Returns 0 where the request is none. */
static int chd_block_gather(struct chd_block *block, struct chd_queue *queue,
                            const struct chd_block_header *header, const struct chd_chain *chain,
                            uint8_t *status)
{
        int is_write = header->type == CHD_BLOCK_OUT;
        const struct iovec *parts = is_write ? chain->parts : chain->in;
        int n_parts = is_write ? chain->n_out : chain->n_in;
        uint64_t offset = header->sector * CHD_SECTOR;
        struct chd_batched request = { .head = chain->head, .status = status };

        request.bytes = is_write ? chain->out_bytes - sizeof(*header) : chain->in_bytes - 1;
        if ((header->type != CHD_BLOCK_IN && !is_write) || (is_write && block->readonly) ||
            !chd_block_holds(block, header->sector, request.bytes))
                return 0;
        if (!chd_batch_takes(&block->batch, is_write, offset, n_parts, request.bytes))
                chd_block_finish(block, queue);
        chd_batch_add(&block->batch, is_write, offset, parts, n_parts, request);
        return 1;
}

/* Serve one request, at once or with those that follow it: chd_block_finish ends them. Returns 0, or
 * -EINVAL for one without status. */
static int chd_block_serve(struct chd_block *block, struct chd_queue *queue, struct chd_chain *chain)
{
        struct chd_block_header header;
        struct iovec *last;
        uint8_t *status;
        uint32_t moved = 0;

        if (!chain->in_bytes ||
            chd_parts_read(chain->parts, chain->n_out, &header, sizeof(header)) < 0)
                return -EINVAL;
        last = chain->in + chain->n_in - 1;
        while (!last->iov_len)
                last--;
        last->iov_len--;
        status = (uint8_t *)last->iov_base + last->iov_len;
        if (chd_block_gather(block, queue, &header, chain, status))
                return 0;
        chd_block_finish(block, queue);
        *status = (uint8_t)chd_block_do(block, &header, chain, &moved);
        chd_queue_put(queue, chain->head, moved + 1);
        return 0;
}

#endif
