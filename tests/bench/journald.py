"""A private journald beside whatever runs on this machine; no PID 1 of systemd is needed."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench import patience

# Its own /run, and as many datagrams in a socket's queue as PID 1 of systemd allows (512).
SCRIPT = """
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/journal /run/systemd/journald.conf.d /run/log/journal
cat > /run/systemd/journald.conf.d/bench.conf <<END
[Journal]
Storage=volatile
RateLimitIntervalSec=0
RuntimeMaxUse=2G
ReadKMsg=no
END
echo 512 > /proc/sys/net/unix/max_dgram_qlen
exec /lib/systemd/systemd-journald
"""


@dataclass(frozen=True)
class Journald:
    """A running one."""

    pid: int

    @property
    def root(self) -> Path:
        """Its root directory, as seen from here."""
        return Path(f"/proc/{self.pid}/root")

    @property
    def socket(self) -> Path:
        """Where it takes entries."""
        return self.root / "run/systemd/journal/socket"

    def run(self, command: list[str]) -> None:
        """Run a program whose /run/systemd/journal/socket is this journald's."""
        subprocess.run(["nsenter", f"--mount=/proc/{self.pid}/ns/mnt", *command], check=True)

    def query(self, *arguments: str) -> str:
        """What journalctl says of its journal."""
        command = ["journalctl", "-q", "-D", str(self.root / "run/log/journal"), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def settle(self, vm: str, count: int) -> None:
        """Wait until it has written `count` events of a VM; each once and in order."""
        deadline = time.monotonic() + patience.SECONDS
        while len(seen := self._sequences(vm)) < count and time.monotonic() < deadline:
            time.sleep(0.1)
        assert seen == list(range(1, count + 1)), f"{len(seen)} of {count} entries"

    def _sequences(self, vm: str) -> list[int]:
        lines = self.query("-o", "cat", "--output-fields=SEQ", f"VM={vm}", "COMPONENT=Kernel")
        return [int(line) for line in lines.split()]

    def took_nsec(self, vm: str) -> int:
        """From its receipt of the first event of a VM to that of the last."""
        match = [f"VM={vm}", "COMPONENT=Kernel"]
        times = []
        for which in (["--lines=1"], ["--lines=1", "SEQ=1"]):
            text = self.query("-o", "export", *which, *match)
            [usec] = [line for line in text.splitlines() if line.startswith("__MONOTONIC")]
            times.append(1000 * int(usec.partition("=")[2]))
        return times[0] - times[1]


@contextmanager
def private_journald() -> Iterator[Journald]:
    """Start one, and end it with all its entries."""
    command = ["unshare", "--mount", "--net", "sh", "-c", SCRIPT]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            journald = Journald(process.pid)
            _wait_for(journald.socket)
            yield journald
        finally:
            process.terminate()
            try:
                with patience.running("The end of the private journald"):
                    process.wait(patience.SECONDS)
            finally:
                process.kill()


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + patience.SECONDS
    while not path.exists():
        if time.monotonic() > deadline:
            raise patience.gave_up("The private journald's socket")
        time.sleep(0.01)
