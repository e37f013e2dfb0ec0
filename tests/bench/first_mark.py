"""Runs inside the container: boots VMs over the bus and prints how long their first marks took.

Usage: first_mark.py cold|warm NAME... Prints milliseconds as JSON. Needs nothing but dbus-next.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from typing import Any

sys.modules["gi"] = None  # type: ignore[assignment]
from dbus_next import BusType, Message, Variant  # noqa: E402
from dbus_next.aio import MessageBus  # noqa: E402

MANAGER = ("/org/chdebugd1", "org.chdebugd1.Manager")
VM = "org.chdebugd1.VM"
PROPERTIES = "org.freedesktop.DBus.Properties"
OPTIONS = {"firmware": Variant("s", "/guest.rom"), "memory": Variant("t", 1 << 20)}


async def call(
    bus: MessageBus, path: str, interface: str, member: str, signature: str, *body: Any
) -> Any:
    """The one result of a method."""
    message = Message(
        destination="org.chdebugd1",
        path=path,
        interface=interface,
        member=member,
        signature=signature,
        body=list(body),
    )
    reply = await bus.call(message)
    assert reply is not None
    if reply.error_name:
        raise SystemExit(f"{member}: {reply.body}")
    return reply.body[0] if reply.body else None


async def first_mark(bus: MessageBus, name: str) -> float:
    """Milliseconds from the call of StartVM to the first mark."""
    start = time.monotonic_ns()
    path = await call(bus, *MANAGER, "StartVM", "sa{sv}", name, OPTIONS)
    events: list[Any] = []
    while not events:
        events = await call(bus, path, VM, "GetEvents", "tu", 0, 1)
    stamp = await call(bus, path, PROPERTIES, "Get", "ss", VM, "StartTimestampMonotonic")
    await call(bus, path, VM, "Remove", "")
    return float(1000 * stamp.value + events[0][1] - start) / 1e6


def let_wait(name: str) -> None:
    """Start the VM's process as the daemon does, without telling it to boot."""
    directory = ["install", "-d", "-o", "chdebugd", "-g", "chdebugd", "-m", "700"]
    subprocess.run([*directory, f"/run/chdebugd/vm/{name}"], check=True)
    subprocess.run(["systemctl", "start", f"chdebugd-vm@{name}"], check=True)


async def main(way: str, *names: str) -> None:
    """`warm` starts the unit of each VM beforehand."""
    bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
    times = []
    for name in names:
        if way == "warm":
            let_wait(name)
        times.append(await first_mark(bus, name))
    print(json.dumps(times))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
