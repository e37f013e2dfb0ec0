/* SPDX-License-Identifier: Apache-2.0
 *
 * A network device over a tap (virtio 1.2, section 5.1). Packets pass through
 * one buffer, so that none is taken from the tap before the guest has room.
 */
#ifndef CHD_NET_H
#define CHD_NET_H

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "queue.h"

#define CHD_NET_HEADER 12    /* bytes of virtio_net_hdr with num_buffers */
#define CHD_PACKET_MAX 65562 /* bytes of the largest Ethernet frame and that header */

enum { CHD_NET_RECEIVE, CHD_NET_SEND };

struct chd_net {
        int fd;
        int has_header; /* whether the tap itself takes and gives the header */
        int is_dead;    /* the tap answers no more */
        size_t waiting; /* bytes in `packet`, header included */
        uint8_t *packet; /* CHD_PACKET_MAX bytes */
};

/* Send one packet; the tap may drop it, as any network may. */
static int64_t chd_net_send(struct chd_net *net, struct chd_chain *chain)
{
        uint8_t header[CHD_NET_HEADER];
        ssize_t sent;

        if (chain->n_in || chain->out_bytes < sizeof(header))
                return -EINVAL;
        if (!net->has_header)
                chd_parts_read(chain->parts, chain->n_out, header, sizeof(header));
        if (chain->out_bytes <= CHD_PACKET_MAX) {
                sent = writev(net->fd, chain->parts, chain->n_out);
                (void)sent;
        }
        return 0;
}

/* Get a packet into the buffer, if it is empty. Returns whether there is one. */
static int chd_net_fetch(struct chd_net *net)
{
        size_t skip = net->has_header ? 0 : CHD_NET_HEADER;
        ssize_t got;

        if (net->waiting)
                return 1;
        memset(net->packet, 0, CHD_NET_HEADER);
        got = read(net->fd, net->packet + skip, CHD_PACKET_MAX - skip);
        if (got < 0 && errno != EAGAIN && errno != EINTR)
                net->is_dead = 1;
        if (got <= 0 || (size_t)got + skip < CHD_NET_HEADER)
                return 0;
        if (!net->has_header)
                net->packet[CHD_NET_HEADER - 2] = 1; /* num_buffers */
        net->waiting = (size_t)got + skip;
        return 1;
}

/* Give the packet to the guest, or drop one that is larger than its buffer. */
static int64_t chd_net_receive(struct chd_net *net, struct chd_chain *chain)
{
        size_t size = net->waiting;

        if (chain->n_out || chain->in_bytes < CHD_NET_HEADER)
                return -EINVAL;
        net->waiting = 0;
        if (chain->in_bytes < size)
                return 0;
        return (int64_t)chd_parts_write(chain->in, chain->n_in, net->packet, size);
}

#endif
