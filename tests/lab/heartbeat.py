"""A key of the outer machine that is pressed every few seconds, for the sake of its interrupt."""

from __future__ import annotations

import contextlib
import json
import socket
import threading

INTERVAL = 5  # seconds
KEY = {"type": "qcode", "data": "shift"}


class Heartbeat:
    """What wakes a machine under TCG that lost an interrupt.

    QEMU 7.2 forgets one of its timer's where that comes while a nested guest is entered or left: it
    changes the processor's pending requests there without a lock. A nested guest that then waits
    for another of its processors keeps the only real one for good. Any later interrupt brings the
    lost one along.
    """

    def __init__(self) -> None:
        self._ours, self._qemus = socket.socketpair()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    @property
    def fd(self) -> int:
        """The descriptor that QEMU must inherit."""
        return self._qemus.fileno()

    @property
    def words(self) -> list[str]:
        """What QEMU is told of it."""
        return ["-chardev", f"socket,id=keys,fd={self.fd}", "-mon", "chardev=keys,mode=control"]

    def start(self) -> None:
        """Press from now on; before, the kernel may still be looking for its keyboard."""
        self._send("qmp_capabilities")
        self._thread.start()

    def _beat(self) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # QEMU is gone
            while not self._over.wait(INTERVAL):
                self._send("send-key", keys=[KEY])

    def _send(self, command: str, **arguments: object) -> None:
        request = {"execute": command} | ({"arguments": arguments} if arguments else {})
        self._ours.sendall(json.dumps(request).encode() + b"\n")

    def close(self) -> None:
        """Let go of the key."""
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._ours.close()
        self._qemus.close()
