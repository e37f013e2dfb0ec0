/* SPDX-License-Identifier: Apache-2.0
 *
 * Emits DebugEvent signals with sd-bus as fast as it can.
 *
 * Usage: signal_loop ADDRESS SIGNALS
 */
#include <err.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-bus.h>

static void check(int result, const char *call)
{
        if (result < 0)
                errx(1, "%s: %s", call, strerror(-result));
}
#define CHECK(call) check(call, #call)

int main(int argc, char **argv)
{
        sd_bus *bus;

        if (argc != 3)
                errx(1, "usage: signal_loop ADDRESS SIGNALS");
        CHECK(sd_bus_new(&bus));
        CHECK(sd_bus_set_address(bus, argv[1]));
        CHECK(sd_bus_set_bus_client(bus, 1));
        CHECK(sd_bus_start(bus));
        for (uint64_t i = 1, n = strtoull(argv[2], NULL, 10); i <= n; i++) {
                CHECK(sd_bus_emit_signal(bus, "/org/chdebugd1/vm/peer", "org.chdebugd1.VM",
                                         "DebugEvent", "ttysa{sv}", i, 8137 * i, 0x40, "Kernel",
                                         1, "vcpu", "u", 0));
                if (i % 64 == 0)
                        CHECK(sd_bus_flush(bus));
        }
        CHECK(sd_bus_flush(bus));
        sd_bus_close(bus);
        return 0;
}
