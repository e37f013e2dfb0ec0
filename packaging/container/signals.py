"""What the bus of a container carries, heard as root."""

from __future__ import annotations

import json
import subprocess
import threading
from pathlib import PurePosixPath
from typing import Any, Self

from container.container import Container


class Signals:
    """Hears the signals of chdebugd from entering to leaving, as `busctl monitor` does."""

    def __init__(self, container: Container) -> None:
        self.heard: list[dict[str, Any]] = []
        self._process = subprocess.Popen(
            container.command("busctl", "--json=short", "monitor", "org.chdebugd1"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stderr is not None
        self._process.stderr.readline()  # it is a monitor now, and says so
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._reader.join()
        self._process.communicate()

    def events(self, vm: str) -> list[list[Any]]:
        """Bodies of the DebugEvent signals of a VM, as they came."""
        return [
            signal["payload"]["data"]
            for signal in list(self.heard)
            if signal["member"] == "DebugEvent" and PurePosixPath(signal["path"]).name == vm
        ]

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            message = json.loads(line)
            if message["type"] == "signal":
                self.heard.append(message)
