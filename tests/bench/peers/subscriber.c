/* SPDX-License-Identifier: Apache-2.0
 *
 * Receives DebugEvent signals of one object with sd-bus and notes of each its sequence number, its
 * elapsed time, and CLOCK_MONOTONIC in the handler.
 *
 * Usage: subscriber ADDRESS PATH SIGNALS. Writes a line once it listens, and after so many signals
 * (or 60 s without any) three 64-bit numbers for each.
 */
#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-bus.h>
#include <time.h>

#define PATIENCE_USEC 60000000

struct note {
        uint64_t seq, elapsed_nsec, handled_nsec;
};
static struct note *notes;
static size_t count;

static void check(int result, const char *call)
{
        if (result < 0)
                errx(1, "%s: %s", call, strerror(-result));
}
#define CHECK(call) check(call, #call)

static int handle(sd_bus_message *message, void *wanted, sd_bus_error *error)
{
        struct note *note = &notes[count];
        struct timespec ts;

        (void)error;
        if (count == *(size_t *)wanted)
                return 0;
        CHECK(sd_bus_message_read(message, "tt", &note->seq, &note->elapsed_nsec));
        clock_gettime(CLOCK_MONOTONIC, &ts);
        note->handled_nsec = (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
        count++;
        return 0;
}

int main(int argc, char **argv)
{
        size_t wanted;
        sd_bus *bus;

        if (argc != 4)
                errx(1, "usage: subscriber ADDRESS PATH SIGNALS");
        wanted = strtoul(argv[3], NULL, 10);
        notes = calloc(wanted, sizeof(*notes));
        CHECK(sd_bus_new(&bus));
        CHECK(sd_bus_set_address(bus, argv[1]));
        CHECK(sd_bus_set_bus_client(bus, 1));
        CHECK(sd_bus_start(bus));
        CHECK(sd_bus_match_signal(bus, NULL, NULL, argv[2], "org.chdebugd1.VM", "DebugEvent", handle,
                                  &wanted));
        puts("ready");
        fflush(stdout);
        while (count < wanted) {
                int result = sd_bus_process(bus, NULL);

                CHECK(result);
                if (result)
                        continue;
                result = sd_bus_wait(bus, PATIENCE_USEC);
                CHECK(result);
                if (!result)
                        break;
        }
        return fwrite(notes, sizeof(*notes), count, stdout) == count ? 0 : 1;
}
