"""Watches one VM on the bus: its marks in order and without a gap, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterator
from enum import Enum, auto
from typing import Any

from chdebugd.ctl.bus_client import VM, BusClient, plain
from chdebugd.ctl.errors import CtlError
from chdebugd.ctl.mark_printer import MarkPrinter
from chdebugd.dbus_library import Message
from chdebugd.trace.event import COMPONENT_OF

STOP_USEC = 10_000_000  # what a guest has after Ctrl-C to obey its power button
EVENTS_AT_ONCE = 4096
ENDED = {"stopped", "failed"}


class End(Enum):
    """Why the watch is over."""

    STOPPED = auto()
    FAILED = auto()
    AWAITED = auto()
    DEADLINE = auto()


class BootWatch:
    """The watch. `awaited` are codes of which any one ends it; none, and only the VM's end does."""

    def __init__(
        self,
        client: BusClient,
        path: str,
        name: str,
        awaited: frozenset[int],
        printer: MarkPrinter,
        *,
        verbose: bool = False,
    ) -> None:
        """The client must listen since before the VM was started."""
        self.path = path
        self.name = name
        self.printer = printer
        self.result = ""
        self.count = 0
        self.is_interrupted = False
        self._client = client
        self._awaited = awaited
        self._verbose = verbose
        self._seq = 0
        self._last: tuple[int, str] | None = None
        self._state = ""
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def where(self) -> str:
        """`at Kernel 0x40 kernel-start`: how far the guest came."""
        if self._last is None:
            return "before its first mark"
        code, name = self._last
        return f"at {COMPONENT_OF[code]} {code:#x} {name}".rstrip()

    async def run(self) -> End:
        """Until the VM ends or an awaited code comes; raises CtlError where the bus hangs up."""
        while True:
            if self._awaited and self._last and self._last[0] in self._awaited:
                return End.AWAITED
            if self._state in ENDED:
                # The state may overtake the last marks.
                return End.AWAITED if await self._fill_gap() else self._end
            message = await self._client.signals.get()
            if message is None:
                raise CtlError(
                    f"The bus hung up; VM '{self.name}' runs on: chdebugctl status {self.name}"
                )
            await self._take(message)

    @property
    def _end(self) -> End:
        return End.STOPPED if self._state == "stopped" else End.FAILED

    async def _take(self, message: Message) -> None:
        if message.member == "InterfacesAdded" and message.body[0] == self.path:
            # The VM is new, or the daemon is, and found it.
            self._note_state(plain(message.body[1].get(VM, {})))
        if message.path != self.path:
            return
        if message.member == "DebugEvent":
            seq, nsec, code, component, details = message.body
            if seq > self._seq + 1:
                await self._fill_gap()
            if seq > self._seq or seq == 1:
                self._show([seq, nsec, code, component, plain(details)])
        elif message.member == "PropertiesChanged":
            self._note_state(plain(message.body[1]))

    async def _fill_gap(self) -> bool:
        """Get what the signals lack from the daemon; True where an awaited code is in it."""
        while not self._is_awaited:
            events = await self._client.events(self.path, self._seq, EVENTS_AT_ONCE)
            if not events:
                return False
            for event in events:
                self._show(event)
                if self._is_awaited:
                    break
        return True

    @property
    def _is_awaited(self) -> bool:
        return self._last is not None and self._last[0] in self._awaited

    def _show(self, event: list[Any]) -> None:
        self._seq = event[0]
        self._last = event[2], event[4].get("name", "")
        self.count += 1
        self.printer.mark(self.name, event)

    def _note_state(self, properties: dict[str, Any]) -> None:
        state = properties.get("State", self._state)
        self.result = properties.get("Result", self.result)
        if state != self._state and self._verbose:
            self.printer.note(f"VM '{self.name}' is {state}")
        self._state = state

    # Ctrl-C

    @contextlib.contextmanager
    def signals_stop(self) -> Iterator[None]:
        """While this holds Ctrl-C stops the VM, and a second one kills it."""
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGINT, signal.SIGTERM)
        for number in numbers:
            loop.add_signal_handler(number, self.stop)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)
            for task in self._tasks:
                task.cancel()

    def stop(self) -> None:
        """Press the power button; at once where it was pressed before."""
        verb = self._client.control(self.path, "Kill")
        if not self.is_interrupted:
            verb.close()
            verb = self._client.control(self.path, "Stop", "t", STOP_USEC)
            self.printer.note("Pressed the power button; Ctrl-C again switches off")
        self.is_interrupted = True
        task = asyncio.create_task(self._ask(verb))
        self._tasks.add(task)

    async def _ask(self, verb: Any) -> None:
        with contextlib.suppress(CtlError):  # it has ended by itself
            await verb
