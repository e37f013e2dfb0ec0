/* SPDX-License-Identifier: Apache-2.0
 *
 * readq DEVICE DEPTH BLOCK TOTAL: reads TOTAL bytes in order, DEPTH blocks in flight, past the
 * page cache; prints bytes a second.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MAX_DEPTH 256

static long submit(aio_context_t queue, struct iocb *request)
{
        return syscall(SYS_io_submit, queue, 1L, &request);
}

static double now(void)
{
        struct timespec time;

        clock_gettime(CLOCK_MONOTONIC, &time);
        return time.tv_sec + time.tv_nsec / 1e9;
}

static void fail(const char *what)
{
        perror(what);
        exit(1);
}

int main(int argc, char **argv)
{
        static struct iocb requests[MAX_DEPTH];
        static struct io_event events[MAX_DEPTH];
        aio_context_t queue = 0;
        int depth, fd;
        long block, blocks, asked = 0, done = 0;
        double start;

        if (argc != 5)
                return 2;
        depth = atoi(argv[2]);
        block = atol(argv[3]);
        blocks = atol(argv[4]) / block;
        fd = open(argv[1], O_RDONLY | O_DIRECT);
        if (fd < 0)
                fail(argv[1]);
        if (depth < 1 || depth > MAX_DEPTH || syscall(SYS_io_setup, depth, &queue))
                fail("io_setup");
        start = now();
        for (; asked < depth && asked < blocks; asked++) {
                struct iocb *request = &requests[asked];
                void *buffer = aligned_alloc(4096, block);

                if (!buffer)
                        fail("buffer");
                request->aio_lio_opcode = IOCB_CMD_PREAD;
                request->aio_fildes = fd;
                request->aio_buf = (unsigned long)buffer;
                request->aio_nbytes = block;
                request->aio_offset = asked * block;
                if (submit(queue, request) != 1)
                        fail("io_submit");
        }
        while (done < blocks) {
                long n = syscall(SYS_io_getevents, queue, 1L, (long)depth, events, NULL);

                if (n < 1)
                        fail("io_getevents");
                for (long i = 0; i < n; i++, done++) {
                        struct iocb *request = (struct iocb *)events[i].obj;

                        if (events[i].res != block)
                                fail("read");
                        if (asked == blocks)
                                continue;
                        request->aio_offset = asked++ * block;
                        if (submit(queue, request) != 1)
                                fail("io_submit");
                }
        }
        printf("%.0f\n", blocks * block / (now() - start));
        return 0;
}
