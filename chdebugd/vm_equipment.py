"""What a start request's descriptors become: images, the log file, the ends of text ports."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from chdebugd.control import FileRole, StartRequest, close_all
from chdebugd.errors import LimitExceededError
from chdebugd.text_output import LINES_A_SECOND, FileText, JournalText, Output, PtyText, SocketText
from chdebugd.trace.journal import INFO, LEVELS, SOCKET, WARNING, Journal, MessageId
from chdebugd.trace.journal_sink import JournalSink
from chdebugd.vm_loop import VmLoop
from chdebugd.vm_sinks import VmSinks
from chdebugd.vmm.boot.demo import open_demo_guest
from chdebugd.vmm.boot.image import Image
from chdebugd.vmm.boot.loader import BootSource
from chdebugd.vmm.kvm import Kvm
from chdebugd.vmm.machine import MachineConfig

if TYPE_CHECKING:
    from chdebugd.trace.codemap import CodeMap
    from chdebugd.vmm.virtio.block import Disk
    from chdebugd.vmm.virtio.net import Tap

IMAGES = ("kernel", "initrd", "firmware")
TEXT_PORTS = ("serial", "debug-console", "firmware-debug")


class Equipment:
    """Owns every descriptor of the request, for all boots of the VM."""

    def __init__(
        self,
        name: str,
        request: StartRequest,
        fds: list[int],
        sinks: VmSinks,
        loop: VmLoop,
        *,
        directory: str,
        typed: Output,
    ) -> None:
        """Open the sinks at once, so that even a failing start is told.

        Sockets of text ports lie in `directory`. `typed` gets what people type for the serial port.
        """
        self.terminals: dict[str, str] = {}
        self._directory = directory
        self._typed = typed
        self._request = request
        self._sinks = sinks
        self._loop = loop
        self._stack = ExitStack()
        self._files: list[tuple[FileRole, int]] = []
        for role, fd in zip(request.files, fds, strict=True):
            if role.role == "log-file":
                sinks.log.limit = request.file_limit
                sinks.log.reopen(fd)
            else:
                self._files.append((role, fd))
                self._stack.callback(close_all, [fd])
                if role.role == "disk":
                    self._stack.callback(_unlock_image, fd)
        codes, problem = _load_codes(request.code_map)
        journal = Journal(request.journal or SOCKET)
        sink = JournalSink(sinks.ring, journal, name, codes)
        sink.level = LEVELS[request.log_level]
        sinks.open_journal(journal, sink)
        if problem:
            sink.post(MessageId.VM_STATE, f"{problem}; codes have no names, ignoring", WARNING)
        self._outputs = {port: self._text_output(port) for port in TEXT_PORTS}

    def _text_output(self, port: str) -> Output | None:
        mode = getattr(self._request, port.replace("-", "_"))
        if mode == "journal":
            return JournalText(
                lambda line: self._post_line(port, line),
                lambda count: self._post_suppressed(port, count),
            )
        if mode == "file":
            fd = next(fd for role, fd in self._files if role.role == port)
            return FileText(fd, self._request.file_limit, lambda: self._post_full(port))
        if mode in ("pty", "socket"):
            return self._terminal(port, mode)
        return None

    def reopen_text(self, port: str, fd: int) -> None:
        """Write the text of `port` into `fd` from now on, which stays the caller's."""
        output = self._outputs.get(port)
        if isinstance(output, FileText):
            output.reopen(fd)

    def _terminal(self, port: str, mode: str) -> PtyText | SocketText:
        typed = self._typed if port == "serial" else None
        terminal: PtyText | SocketText
        if mode == "pty":
            terminal = PtyText(self._loop, typed)
        else:
            terminal = SocketText(f"{self._directory}/{port}", self._loop, typed)
        self._stack.callback(terminal.close)
        self.terminals[port] = terminal.path
        return terminal

    def _post_line(self, port: str, line: str) -> None:
        if self._sinks.journal:
            self._sinks.journal.post(MessageId.GUEST_TEXT, line, INFO, PORT=port)
            self._sinks.wake()

    def _post_suppressed(self, port: str, count: int) -> None:
        if self._sinks.journal:
            text = f"{count} lines of {port} were left out: more than {LINES_A_SECOND} a second"
            fields = {"PORT": port, "SUPPRESSED": str(count)}
            self._sinks.journal.post(MessageId.TEXT_SUPPRESSED, text, WARNING, **fields)
            self._sinks.wake()

    def _post_full(self, port: str) -> None:
        if self._sinks.journal:
            limit = self._request.file_limit
            self._sinks.journal.post(
                MessageId.GUEST_TEXT,
                f"The file of {port} has {limit} bytes, which is the limit; what comes now is "
                "counted and left out until the file is cut",
                WARNING,
                PORT=port,
                LIMIT=str(limit),
            )
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
            disks=self._disks(),
            taps=self._taps(),
            rng=request.rng,
            serial=self._outputs["serial"],
            debug_console=self._outputs["debug-console"],
            firmware_debug=self._outputs["firmware-debug"],
        )

    def _boot_source(self) -> BootSource:
        images = {
            role.role: Image(role.role, role.name, fd)
            for role, fd in self._files
            if role.role in IMAGES
        }
        if "kernel" not in images and "firmware" not in images:
            images["firmware"] = demo = open_demo_guest()
            self._files.append((FileRole("firmware", demo.name), demo.fd))
            self._stack.callback(close_all, [demo.fd])
        return BootSource(**images, cmdline=self._request.cmdline)

    def _disks(self) -> tuple[Disk, ...]:
        roles = [(role, fd) for role, fd in self._files if role.role == "disk"]
        if not roles:
            return ()
        from chdebugd.disk_lock import lock_image
        from chdebugd.vmm.virtio.block import Disk

        for role, fd in roles:
            lock_image(role, fd)
        return tuple(Disk(fd, role.name, role.id, role.readonly) for role, fd in roles)

    def _taps(self) -> tuple[Tap, ...]:
        roles = [(role, fd) for role, fd in self._files if role.role == "tap"]
        if not roles:
            return ()
        from chdebugd.vmm.virtio.net import Tap

        return tuple(Tap(fd, role.mac, role.id) for role, fd in roles)

    def close(self) -> None:
        """Post half lines of text, and close all but the log file, which its sink owns."""
        for port, output in self._outputs.items():
            if isinstance(output, JournalText):
                output.close()
            elif isinstance(output, FileText | SocketText) and output.lost_bytes:
                self._post_loss(port, output.lost_bytes)
        self.terminals = {}
        self._stack.close()

    def _post_loss(self, port: str, n_bytes: int) -> None:
        if self._sinks.journal:
            self._sinks.journal.post(
                MessageId.GUEST_TEXT,
                f"{n_bytes} bytes of {port} were lost: the file took no more, or nobody read them",
                WARNING,
                PORT=port,
                LOST_BYTES=str(n_bytes),
            )


def _unlock_image(fd: int) -> None:
    from chdebugd.disk_lock import unlock_image

    unlock_image(fd)


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
