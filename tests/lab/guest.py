"""A virtual machine of chdebugd in the outer machine, handled by busctl and journalctl."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from typing import Any

from chdebugd.trace.journal import MessageId
from tests.lab.outer import LabError, OuterMachine

BOOT_TIMEOUT = 1200  # seconds for anything that a boot must reach on a busy machine
CALL_TIMEOUT = 1000  # seconds; Stop answers when the guest is down
IMAGES = "/var/lib/chdebugd/lab"  # of all file systems, the service may write this one only
SERVICE = "org.chdebugd1"
MANAGER = (SERVICE, "/org/chdebugd1", "org.chdebugd1.Manager")
SECTOR = 512
# kB of all mappings but those as large as guest memory, which is 64 MiB and more.
PROCESS_MEMORY = """
awk '/^Size:/ { mine = $2 < 65536 } /^Pss:/ && mine { sum += $2 } END { print sum }' \\
    /proc/$(systemctl show --value --property=MainPID UNIT)/smaps
"""


@dataclass(frozen=True)
class Mark:
    """One event of the journal."""

    code: int
    component: str
    boot: str
    seq: int
    vcpu: int
    elapsed_nsec: int


def variant(value: object) -> list[str]:
    """busctl's words for an option's value: its type, then it."""
    if isinstance(value, bool):
        return ["b", str(value).lower()]
    if isinstance(value, int):
        return ["u" if value < 1 << 16 else "t", str(value)]
    if isinstance(value, list):
        words = ["aa{sv}", str(len(value))]
        for each in value:
            words += dictionary(each)
        return words
    return ["s", str(value)]


def dictionary(given: dict[str, Any]) -> list[str]:
    """busctl's words for an a{sv}."""
    words = [str(len(given))]
    for key, value in given.items():
        words += [key, *variant(value)]
    return words


class Guest:
    """One VM by its name."""

    def __init__(self, outer: OuterMachine, name: str) -> None:
        self._outer = outer
        self.name = name
        self._path = ""

    def start(self, **options: object) -> None:
        """StartVM with these options; `_` in a key stands for `-`."""
        given = {key.replace("_", "-"): value for key, value in options.items()}
        self._read_once(*(str(given[key]) for key in ("kernel", "initrd") if key in given))
        words = ["StartVM", "sa{sv}", self.name, *dictionary(given)]
        try:
            self._path = self._busctl("call", *MANAGER, *words)
        except LabError as error:
            story = self._outer.run("journalctl -u chdebugd -o short-monotonic -n 20 --no-pager")
            raise LabError(f"{error}\nThe daemon's journal:\n{story}") from None

    def boot(self, kernel: str, initrd: str | None, *words: str) -> None:
        """Started by `chdebugctl boot`, which hands files over: a tap comes in no other way."""
        command = ["chdebugctl", "boot", "--detach", f"--name={self.name}", f"--kernel={kernel}"]
        if initrd:
            command.append(f"--initramfs={initrd}")
        self._read_once(kernel, *filter(None, [initrd]))
        command += words
        self._outer.run(shlex.join(command), timeout=CALL_TIMEOUT)
        self._path = self._busctl("call", *MANAGER, "GetVM", "s", self.name)

    def _read_once(self, *images: str) -> None:
        """A start may take a minute, and a starved emulated disk may need that for one image."""
        self._outer.run(shlex.join(["cat", "/dev/null", *images]) + " > /dev/null", timeout=600)

    def call(self, method: str, *arguments: str) -> None:
        """A method of the VM."""
        self._busctl("call", SERVICE, self._path, "org.chdebugd1.VM", method, *arguments)

    def remove(self) -> None:
        """Kill it where it runs, and forget it; nothing where it never started."""
        if not self._path:
            return
        if self.get("State") not in ("stopped", "failed"):
            self.call("Kill")
            self.wait_state("stopped")
        self.call("Remove")

    def get(self, name: str) -> str:
        """A property's value."""
        return self._busctl("get-property", SERVICE, self._path, "org.chdebugd1.VM", name)

    def _busctl(self, *words: str) -> str:
        """Its answer without the type and quotation marks; empty where there is none."""
        command = shlex.join(["busctl", f"--timeout={CALL_TIMEOUT}", *words])
        answer = self._outer.run(command, timeout=CALL_TIMEOUT + 10)
        return answer.partition(" ")[2].strip().strip('"')

    def _journal(self, *words: str) -> str:
        command = ["journalctl", "-t", "chdebugd", f"VM={self.name}", "-o", "json", "--no-pager"]
        return shlex.join([*command, *words])

    def wait_mark(self, code: int, timeout: int = BOOT_TIMEOUT) -> None:
        """Until this code is in the journal, at most so many seconds."""
        self._wait(f'"CODE":"{code:#x}"', timeout)

    def wait_text(self, text: str, timeout: int = BOOT_TIMEOUT) -> None:
        """Until the guest's serial line says this, at most so many seconds."""
        self._wait(text, timeout)

    def wait_state(self, state: str) -> None:
        """Until the journal tells of this state."""
        self._wait(f"VM '{self.name}' is {state}")

    def _wait(self, pattern: str, timeout: int = BOOT_TIMEOUT) -> None:
        """Until an entry matches; raises LabError with all entries when it never comes."""
        ended = f"VM '{self.name}' is (stopped|failed)"
        follow = self._journal("-f", "-n", "all")
        done = self._outer.follow(follow, f"{pattern}|{ended}", timeout)
        if done.code != 0 or not re.search(pattern, done.output.splitlines()[-1]):
            story = self._outer.run(f"journalctl -t chdebugd VM={self.name} --no-pager")
            raise LabError(f"VM {self.name} never came to {pattern}; its journal:\n{story}")

    def marks(self) -> list[Mark]:
        """All events so far, in their order."""
        return [_mark(entry) for entry in self.entries(MessageId.EVENT)]

    def entries(self, kind: MessageId) -> list[dict[str, str]]:
        """All entries of a kind so far, in their order."""
        lines = self._outer.run(self._journal(f"MESSAGE_ID={kind}")).splitlines()
        return [json.loads(line) for line in lines]

    def text(self) -> list[str]:
        """The lines of its serial port."""
        lines = self._outer.run(self._journal("PORT=serial")).splitlines()
        return [_message(json.loads(line)).rstrip() for line in lines]

    def phase(self, name: str) -> float:
        """When the last boot's host phase was done, in seconds since its start."""
        words = (f"MESSAGE_ID={MessageId.HOST_PHASE}", f"PHASE={name}", "-n", "1")
        return float(json.loads(self._outer.run(self._journal(*words)))["ELAPSED"])

    def process_memory(self) -> int:
        """Bytes that its process has for itself beside the guest's memory."""
        unit = f"chdebugd-vm@{self.name}.service"
        return 1024 * int(self._outer.run(PROCESS_MEMORY.replace("UNIT", unit)))

    def put_job(self, script: str) -> dict[str, object]:
        """The disk whose script the guest's lab-job.service runs."""
        data = script.encode()
        path = f"{IMAGES}/{self.name}.job"
        self._outer.put(path, data + bytes(-len(data) % SECTOR))
        return {"path": path, "id": "job", "readonly": True}


def _mark(entry: dict[str, str]) -> Mark:
    return Mark(
        int(entry["CODE"], 16),
        entry["COMPONENT"],
        entry["VM_BOOT"],
        int(entry["SEQ"]),
        int(entry["VCPU"]),
        int(entry["ELAPSED_NSEC"]),
    )


def _message(entry: dict[str, Any]) -> str:
    """journalctl writes what no terminal should see as a list of bytes."""
    message = entry["MESSAGE"]
    return message if isinstance(message, str) else bytes(message).decode(errors="replace")
