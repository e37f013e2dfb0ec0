"""An i8042 keyboard controller: the reset line, and a keyboard on which nobody types.

The keyboard acknowledges what it is told, because firmware waits a second for each answer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import IntEnum

from chdebugd.vmm.devices import Wire

ACK = 0xFA
SELF_TEST_PASSED = 0xAA
IDENTITY = bytes([0xAB, 0x83])  # an MF2 keyboard
CONTROLLER_PASSED = 0x55
CONFIG_KEYBOARD_IRQ = 1
CONFIG_KEYBOARD_OFF = 1 << 4


class Command(IntEnum):
    """What the controller itself is told at port 0x64 (Intel 8042; IBM PS/2 reference)."""

    READ_CONFIG = 0x20
    WRITE_CONFIG = 0x60
    TEST_AUX = 0xA9
    SELF_TEST = 0xAA
    TEST_KEYBOARD = 0xAB
    KEYBOARD_OFF = 0xAD
    KEYBOARD_ON = 0xAE
    READ_OUTPUT = 0xD0
    WRITE_OUTPUT = 0xD1
    RESET_CPU = 0xFE


KEYBOARD_IDENTIFY, KEYBOARD_RESET = 0xF2, 0xFF


class I8042:
    """Data at offset 0 (port 0x60), status and command at offset 4 (port 0x64)."""

    DATA, COMMAND = 0, 4
    OUTPUT_FULL, SYSTEM = 1, 4

    def __init__(self, irq: Wire, reset: Callable[[], None]) -> None:
        self._irq = irq
        self._reset = reset
        self._answers: deque[int] = deque(maxlen=16)
        self._config = CONFIG_KEYBOARD_OFF
        self._awaits: int | None = None

    def read(self, offset: int, size: int) -> int:
        """The next answer, or the status."""
        if offset == self.COMMAND:
            return self.SYSTEM | (self.OUTPUT_FULL if self._answers else 0)
        if offset != self.DATA:
            return 0xFF
        value = self._answers.popleft() if self._answers else 0
        self._update()
        return value

    def write(self, offset: int, size: int, value: int) -> None:
        """A command, or data for the command before it or for the keyboard."""
        value &= 0xFF
        if offset == self.COMMAND:
            self._command(value)
        elif offset == self.DATA:
            self._data(value)
        self._update()

    def _command(self, command: int) -> None:
        self._awaits = command if command in (Command.WRITE_CONFIG, Command.WRITE_OUTPUT) else None
        match command:
            case Command.RESET_CPU:
                self._reset()
            case Command.READ_CONFIG:
                self._answers.append(self._config)
            case Command.SELF_TEST:
                self._answers.append(CONTROLLER_PASSED)
            case Command.TEST_AUX | Command.TEST_KEYBOARD:
                self._answers.append(0)
            case Command.KEYBOARD_OFF:
                self._config |= CONFIG_KEYBOARD_OFF
            case Command.KEYBOARD_ON:
                self._config &= ~CONFIG_KEYBOARD_OFF
            case Command.READ_OUTPUT:
                self._answers.append(3)  # A20 is open, the CPU runs

    def _data(self, value: int) -> None:
        awaits, self._awaits = self._awaits, None
        if awaits == Command.WRITE_CONFIG:
            self._config = value
        elif awaits == Command.WRITE_OUTPUT:
            if not value & 1:
                self._reset()
        else:
            self._answers.append(ACK)
            if value == KEYBOARD_RESET:
                self._answers.append(SELF_TEST_PASSED)
            elif value == KEYBOARD_IDENTIFY:
                self._answers.extend(IDENTITY)

    def _update(self) -> None:
        self._irq(bool(self._answers) and bool(self._config & CONFIG_KEYBOARD_IRQ))
