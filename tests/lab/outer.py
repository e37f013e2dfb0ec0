"""The outer machine: Debian in QEMU, with a /dev/kvm of its own, and a hand in it."""

from __future__ import annotations

import base64
import json
import os
import shlex
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.lab.heartbeat import Heartbeat

LIFETIME = 90 * 60  # seconds; then the machine is killed whatever it does
BOOT_TIMEOUT = 900  # seconds
ANSWER_TIMEOUT = 60  # seconds beyond a command's own limit
MEMORY_MIB = 4096
CONSOLE_END = 6000  # characters of the console that an error shows


class LabError(Exception):
    """The outer machine, or a command in it, did not do what it must."""


@dataclass(frozen=True)
class Completed:
    """What a command left."""

    code: int
    output: str


def has_nested_kvm() -> bool:
    """Whether the host's /dev/kvm is hardware that lets guests have a KVM of their own.

    An emulating one has no module of a processor's maker under it.
    """
    parameters = [Path(f"/sys/module/kvm_{maker}/parameters/nested") for maker in ("amd", "intel")]
    return os.access("/dev/kvm", os.R_OK | os.W_OK) and any(
        each.exists() and each.read_text().strip() in ("1", "Y") for each in parameters
    )


def processors() -> list[str]:
    """QEMU's words for the fastest processors that have a KVM."""
    if has_nested_kvm():
        return ["-accel", "kvm", "-cpu", "host", "-smp", "2"]
    # TCG hides XSETBV from a hypervisor in it, so guests would see an XSAVE area of a wrong size;
    # without XSAVE there must be no AVX, and Linux's AES code asks for both by the name of AES.
    # With ERMS, kernels copy single bytes, and TCG walks over all it ever translated of a page for
    # each: an image that comes to where a guest ran before took 76 s, now 2 to 20 s.
    processor = "max,+svm,-xsave,-avx,-avx2,-aes,-pclmulqdq,-la57,-erms,-fsrm"
    # One: TCG may lose what one processor writes into code that another is just running. With two,
    # 3 of 35 boots of a guest hung, one of them in the INT3 behind which a kernel patches itself.
    return ["-accel", "tcg,tb-size=1024", "-cpu", processor, "-smp", "1"]


class OuterMachine:
    """Booted from the images that packaging/lab/build made; they stay as they are."""

    def __init__(self, images: Path, packages: Path, work: Path) -> None:
        """Start QEMU, its disks `images` and the disk `packages`, its texts in `work`."""
        self._console = work / "console.txt"
        self._transcript = work / "transcript.txt"
        self._heartbeat = Heartbeat()
        address = str(work / "hand")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(address)
            listener.listen(1)
            listener.settimeout(ANSWER_TIMEOUT)
            command = self._command(images, packages, address)
            self._process = subprocess.Popen(command, pass_fds=[self._heartbeat.fd])
            self._hand, _ = listener.accept()
        self._hand.settimeout(BOOT_TIMEOUT)
        self._answers = self._hand.makefile("rb")

    def _command(self, images: Path, packages: Path, hand: str) -> list[str]:
        command = ["timeout", "--kill-after=5", str(LIFETIME), "qemu-system-x86_64"]
        command += ["-machine", "q35", *processors(), "-m", str(MEMORY_MIB)]
        command += ["-nodefaults", "-display", "none", "-no-reboot"]
        command += ["-kernel", str(images / "outer-vmlinuz")]
        command += ["-initrd", str(images / "outer-initrd")]
        command += ["-append", "root=/dev/vda rw console=ttyS0 quiet mitigations=off"]
        command += ["-serial", f"file:{self._console}", *self._heartbeat.words]
        for disk in (images / "outer.img", images / "guests.img", packages):
            command += ["-drive", f"file={disk},if=virtio,format=raw,snapshot=on"]
        command += ["-device", "virtio-serial-pci", "-chardev", f"socket,id=hand,path={hand}"]
        return [*command, "-device", "virtserialport,chardev=hand,name=lab"]

    def wait_ready(self) -> None:
        """Until the hand in it answers; raises LabError with the console's text."""
        self._receive("the boot of the outer machine")
        self._heartbeat.start()

    def _receive(self, what: str) -> Completed:
        try:
            line = self._answers.readline()
        except TimeoutError:
            line = b""
        if line:
            return Completed(**json.loads(line))
        text = self._console.read_text(errors="replace") if self._console.exists() else ""
        raise LabError(f"No answer to {what}; the end of the console:\n{text[-CONSOLE_END:]}")

    def _ask(self, request: dict[str, Any], what: str) -> Completed:
        self._hand.settimeout(request["timeout"] + ANSWER_TIMEOUT)
        self._hand.sendall(json.dumps(request).encode() + b"\n")
        done = self._receive(what)
        with self._transcript.open("a") as transcript:
            transcript.write(f"# {what}\n{done.output}\n[{done.code}]\n")
        return done

    def try_run(self, command: str, timeout: int = 120) -> Completed:
        """A shell command there, killed after `timeout` seconds (code 124)."""
        return self._ask({"run": command, "timeout": timeout}, command)

    def run(self, command: str, timeout: int = 120) -> str:
        """The output of a command that must succeed; raises LabError."""
        done = self.try_run(command, timeout)
        if done.code != 0:
            raise LabError(f"{command}\nended with code {done.code}:\n{done.output}")
        return done.output

    def follow(self, command: str, until: str, timeout: int) -> Completed:
        """What a command prints up to the line that matches `until`; code 124: it never came."""
        request = {"run": command, "until": until, "timeout": timeout}
        return self._ask(request, f"{command} # until {until}")

    def put(self, path: str, data: bytes) -> None:
        """Make a file there."""
        encoded = base64.b64encode(data).decode()
        self._ask({"put": path, "data": encoded, "timeout": 60}, shlex.join(["put", path]))

    def close(self) -> None:
        """Kill it."""
        self._heartbeat.close()
        self._process.terminate()
        self._process.wait()
        self._answers.close()
        self._hand.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
