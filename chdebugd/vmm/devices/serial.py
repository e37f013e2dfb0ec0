"""A 16550A serial port that is always ready to send."""

from __future__ import annotations

import threading
from collections import deque
from enum import IntEnum

from chdebugd.vmm.devices import Wire
from chdebugd.vmm.devices.text_port import Output

INPUT_LIMIT = 64 * 1024  # bytes that wait for a guest that does not read


class Register(IntEnum):
    """Offsets; the first two mean the divisor while LCR.DLAB is set (PC16550D, table II)."""

    DATA = 0
    IER = 1
    IIR_FCR = 2
    LCR = 3
    MCR = 4
    LSR = 5
    MSR = 6
    SCR = 7


LSR = int(Register.LSR)

# Bits are plain numbers: arithmetic on flags costs a microsecond each, and a console polls these.
IER_RECEIVED, IER_SENT = 1, 2
IIR_NONE, IIR_SENT, IIR_RECEIVED = 1, 2, 4  # without the FIFO bits
LSR_DATA_READY, LSR_SENDER_EMPTY = 0x01, 0x60
FIFOS_ON = 0xC0
DLAB = 0x80
LOOPBACK = 0x10
MSR_READY = 0xB0  # carrier, data set ready, clear to send


class Serial:
    """COM1. `output` gets what the guest sends; None throws it away."""

    def __init__(self, irq: Wire, output: Output | None) -> None:
        self._irq = irq
        self._output = output
        self._input: deque[int] = deque()
        self._lock = threading.Lock()
        self._ier = self._lcr = self._mcr = self._scratch = 0
        self._divisor = 12  # 9600 baud, as firmware would leave it
        self._fifo = False
        self._sent_pending = False

    def receive(self, data: bytes) -> int:
        """Queue input for the guest; returns how many bytes there was room for."""
        with self._lock:
            taken = data[: INPUT_LIMIT - len(self._input)]
            self._input.extend(taken)
            self._update()
            return len(taken)

    def read(self, offset: int, size: int) -> int:
        """One register."""
        if offset == LSR:
            return LSR_SENDER_EMPTY | (LSR_DATA_READY if self._input else 0)
        with self._lock:
            value = self._read(offset)
            self._update()
            return value

    def write(self, offset: int, size: int, value: int) -> None:
        """One register."""
        with self._lock:
            self._write(offset, value & 0xFF)
            self._update()

    def _read(self, offset: int) -> int:
        match offset:
            case Register.DATA:
                if self._lcr & DLAB:
                    return self._divisor & 0xFF
                return self._input.popleft() if self._input else 0
            case Register.IER:
                return self._divisor >> 8 if self._lcr & DLAB else self._ier
            case Register.IIR_FCR:
                pending = self._pending()
                if pending == IIR_SENT:
                    self._sent_pending = False
                return pending | (FIFOS_ON if self._fifo else 0)
            case Register.LCR:
                return self._lcr
            case Register.MCR:
                return self._mcr
            case Register.MSR:
                return self._modem_status()
            case _:
                return self._scratch

    def _write(self, offset: int, value: int) -> None:
        match offset:
            case Register.DATA if self._lcr & DLAB:
                self._divisor = self._divisor & 0xFF00 | value
            case Register.DATA:
                self._send(value)
            case Register.IER if self._lcr & DLAB:
                self._divisor = self._divisor & 0xFF | value << 8
            case Register.IER:
                newly_wanted = value & ~self._ier & IER_SENT
                self._sent_pending = self._sent_pending or bool(newly_wanted)
                self._ier = value & 0x0F
            case Register.IIR_FCR:
                self._fifo = bool(value & 1)
                if value & 2:
                    self._input.clear()
            case Register.LCR:
                self._lcr = value
            case Register.MCR:
                self._mcr = value & 0x1F
            case Register.SCR:
                self._scratch = value

    def _send(self, byte: int) -> None:
        if self._mcr & LOOPBACK:
            if len(self._input) < INPUT_LIMIT:
                self._input.append(byte)
        elif self._output:
            self._output(bytes([byte]))
        self._sent_pending = True

    def _modem_status(self) -> int:
        if not self._mcr & LOOPBACK:
            return MSR_READY
        # In loopback the modem control outputs come back as inputs (PC16550D, 8.5.1).
        mcr = self._mcr
        return (mcr & 1) << 5 | (mcr & 2) << 3 | (mcr & 4) << 4 | (mcr & 8) << 4

    def _pending(self) -> int:
        if self._ier & IER_RECEIVED and self._input:
            return IIR_RECEIVED
        if self._ier & IER_SENT and self._sent_pending:
            return IIR_SENT
        return IIR_NONE

    def _update(self) -> None:
        self._irq(self._pending() != IIR_NONE)
