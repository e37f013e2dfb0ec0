"""Run inside, as a user: StartVM with descriptors. Arguments: name, firmware, log file."""

import asyncio
import os
import sys

from dbus_next import BusType, Message, MessageType, Variant
from dbus_next.aio import MessageBus


async def start(name: str, firmware: str, log_file: str) -> int:
    bus = await MessageBus(bus_type=BusType.SYSTEM, negotiate_unix_fd=True).connect()
    flags = os.O_WRONLY | os.O_CREAT  # the daemon sees to it that all is appended
    message = Message(
        destination="org.chdebugd1",
        path="/org/chdebugd1",
        interface="org.chdebugd1.Manager",
        member="StartVM",
        signature="sa{sv}",
        body=[name, {"firmware": Variant("h", 0), "log-file": Variant("h", 1)}],
        unix_fds=[os.open(firmware, os.O_RDONLY), os.open(log_file, flags)],
    )
    reply = await bus.call(message)
    print(*reply.body)
    return int(reply.message_type != MessageType.METHOD_RETURN)


raise SystemExit(asyncio.run(start(*sys.argv[1:])))
