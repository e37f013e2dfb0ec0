"""What a start request's descriptors become: images, the log file, the ends of text ports."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

from chdebugd.control import FileRole, StartRequest, close_all
from chdebugd.errors import LimitExceededError
from chdebugd.text_output import FileText, JournalText, PtyText
from chdebugd.trace.journal import INFO, LEVELS, SOCKET, WARNING, Journal, MessageId
from chdebugd.trace.sinks import JournalSink
from chdebugd.vm_loop import VmLoop
from chdebugd.vm_sinks import VmSinks
from chdebugd.vmm.boot.demo import open_demo_guest
from chdebugd.vmm.boot.image import Image
from chdebugd.vmm.boot.loader import BootSource
from chdebugd.vmm.kvm import Kvm
from chdebugd.vmm.machine import MachineConfig

if TYPE_CHECKING:
    from chdebugd.trace.codemap import CodeMap

IMAGES = ("kernel", "initrd", "firmware")
TEXT_PORTS = ("serial", "debug-console", "firmware-debug")


class Equipment:
    """Owns every descriptor of the request, for all boots of the VM."""

    def __init__(
        self, name: str, request: StartRequest, fds: list[int], sinks: VmSinks, loop: VmLoop
    ) -> None:
        """Open the sinks at once, so that even a failing start is told."""
        self.terminals: dict[str, str] = {}
        self._request = request
        self._sinks = sinks
        self._loop = loop
        self._stack = ExitStack()
        self._files: dict[str, tuple[FileRole, int]] = {}
        for role, fd in zip(request.files, fds, strict=True):
            if role.role == "log-file":
                sinks.log.reopen(fd)
            else:
                self._files[role.id or role.role] = (role, fd)
                self._stack.callback(close_all, [fd])
        codes, problem = _load_codes(request.code_map)
        journal = Journal(request.journal or SOCKET)
        sink = JournalSink(sinks.ring, journal, name, codes)
        sink.level = LEVELS[request.log_level]
        sinks.open_journal(journal, sink)
        if problem:
            sink.post(MessageId.VM_STATE, f"{problem}; codes have no names, ignoring", WARNING)
        self._outputs = {port: self._text_output(port) for port in TEXT_PORTS}

    def _text_output(self, port: str) -> Callable[[bytes], None] | None:
        mode = getattr(self._request, port.replace("-", "_"))
        if mode == "journal":
            return JournalText(lambda line: self._post_line(port, line))
        if mode == "file":
            return FileText(self._files[port][1])
        if mode == "pty":
            terminal = PtyText()
            self._stack.callback(terminal.close)
            self.terminals[port] = terminal.path
            return terminal
        return None

    def _post_line(self, port: str, line: str) -> None:
        if self._sinks.journal:
            self._sinks.journal.post(MessageId.GUEST_TEXT, line, INFO, PORT=port)
            self._sinks.wake()

    def machine_config(self, kvm: Kvm) -> MachineConfig:
        """What one boot's machine is made of; raises LimitExceededError."""
        request = self._request
        if request.cpus > kvm.max_vcpus:
            raise LimitExceededError(
                f"Option 'cpus' is {request.cpus}; KVM of this host allows {kvm.max_vcpus}"
            )
        return MachineConfig(
            memory=request.memory,
            cpus=request.cpus,
            boot=self._boot_source(),
            serial=self._outputs["serial"],
            debug_console=self._outputs["debug-console"],
            firmware_debug=self._outputs["firmware-debug"],
        )

    def _boot_source(self) -> BootSource:
        images = {
            role: Image(role, self._files[role][0].name, self._files[role][1])
            for role in IMAGES
            if role in self._files
        }
        if "kernel" not in images and "firmware" not in images:
            images["firmware"] = demo = open_demo_guest()
            self._files["firmware"] = (FileRole("firmware", demo.name), demo.fd)
            self._stack.callback(close_all, [demo.fd])
        return BootSource(**images, cmdline=self._request.cmdline)

    def close(self) -> None:
        """Post half lines of text, and close all but the log file, which its sink owns."""
        for output in self._outputs.values():
            if isinstance(output, JournalText):
                output.flush()
        self._stack.close()


def _load_codes(name: str) -> tuple[CodeMap | None, str]:
    """The code map, or why there is none: a bad file never stops a VM."""
    if not name:
        return None, ""
    # Its parser would take 5 ms of the start of every VM process that needs none.
    from chdebugd.trace.codemap import CodeMap, CodeMapError

    try:
        return CodeMap.load(name), ""
    except CodeMapError as error:
        return None, str(error)
