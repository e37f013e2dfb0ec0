/* SPDX-License-Identifier: Apache-2.0
 *
 * A source of entropy (virtio 1.2, section 5.4).
 */
#ifndef CHD_ENTROPY_H
#define CHD_ENTROPY_H

#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include "queue.h"

#define CHD_ENTROPY_MAX 65536 /* bytes a request */

static int64_t chd_entropy_serve(struct chd_chain *chain)
{
        uint8_t bytes[256];
        uint64_t left = chain->in_bytes < CHD_ENTROPY_MAX ? chain->in_bytes : CHD_ENTROPY_MAX;
        int64_t done = 0;

        if (chain->n_out)
                return -EINVAL;
        for (int i = 0; left && i < chain->n_in; i++) {
                struct iovec part = chain->in[i];

                while (left && part.iov_len) {
                        size_t some = part.iov_len < sizeof(bytes) ? part.iov_len : sizeof(bytes);

                        some = left < some ? left : some;
                        if (getrandom(bytes, some, 0) != (ssize_t)some)
                                return done;
                        memcpy(part.iov_base, bytes, some);
                        part.iov_base = (uint8_t *)part.iov_base + some;
                        part.iov_len -= some;
                        left -= some;
                        done += (int64_t)some;
                }
        }
        return done;
}

#endif
