"""Signals that the bus has not got when the daemon ends: the next daemon sends them."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from chdebugd.dbus_library import Variant
from tests.dbus.conftest import Broker, Client, Daemon, connected, file_with
from tests.guests import FOREVER, burst, mark, rom

pytestmark = [pytest.mark.kvm, pytest.mark.dbus]
MARKS = 20_000


def sequence(client: Client, vm: str) -> list[int]:
    return [event[0] for event in client.events(vm)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_signals_that_a_still_bus_did_not_take_come_later(
    broker: Broker, daemon: Daemon, number: signal.Signals
) -> None:
    """A daemon that was killed could not say what it had sent: the next one may repeat some."""

    async def told() -> None:
        async with connected(daemon.address) as client:
            code = mark(1) + burst(MARKS - 1) + FOREVER
            image = file_with(daemon.runtime_dir.parent, rom(code))
            vm = await client.start_vm("fw0", firmware=Variant("s", str(image)))
            os.kill(broker.pid, signal.SIGSTOP)
            await client.wait_for(lambda: len(daemon.journal.entries(CODE="0x40")) == MARKS - 1)

            await asyncio.to_thread(daemon.stop, number)
            os.kill(broker.pid, signal.SIGCONT)
            daemon.start()

            await client.wait_for(lambda: sequence(client, vm)[-1:] == [MARKS])
            heard = sequence(client, vm)
            once = sorted(set(heard))
            assert once == list(range(1, MARKS + 1))
            assert heard == once or number == signal.SIGKILL

    asyncio.run(told())
