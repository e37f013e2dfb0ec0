"""Where vCPU threads pass between two runs of the guest, and wait while the machine is paused."""

from __future__ import annotations

import threading


class Gate:
    """Closed at first. A thread that finds it closed parks until it opens or ends."""

    def __init__(self) -> None:
        self.is_open = False
        self.is_ended = False
        self._parked = 0
        self._condition = threading.Condition()

    def pass_through(self) -> bool:
        """Wait while closed. Returns False once the gate has ended: the thread must go home."""
        with self._condition:
            while not self.is_open and not self.is_ended:
                self._parked += 1
                self._condition.notify_all()
                self._condition.wait()
                self._parked -= 1
            return not self.is_ended

    def open(self) -> None:
        """Let all threads go on; nothing where the gate has ended."""
        with self._condition:
            self.is_open = not self.is_ended
            self._condition.notify_all()

    def close(self) -> None:
        """Stop threads as they come; kick them after this call, then wait_parked."""
        with self._condition:
            self.is_open = False

    def end(self) -> None:
        """Send all threads home, for good."""
        with self._condition:
            self.is_open = False
            self.is_ended = True
            self._condition.notify_all()

    def wait_parked(self, count: int) -> None:
        """Wait until `count` threads are parked here, or the gate ends."""
        with self._condition:
            self._condition.wait_for(lambda: self._parked >= count or self.is_ended)
