"""cloud-hypervisor's own flags for a VM, as the options and descriptors of StartVM.

Files are opened here, as the user who asks, and go along as descriptors: so a member of the group
needs no right that the daemon would have to lend.
"""

from __future__ import annotations

import argparse
import os
from types import TracebackType
from typing import Self

from chdebugd.ctl.errors import CtlError, UsageError
from chdebugd.ctl.flag_values import (
    parse_cpus,
    parse_memory,
    parse_rng,
    parse_switch,
    split_words,
)
from chdebugd.ctl.place import Place
from chdebugd.ctl.tap import open_tap
from chdebugd.dbus_library import Variant

TEXT_PORTS = ("serial", "debug-console", "firmware-debug")
TEXT_HELP = "off, null, journal, pty, socket, tty (this terminal) or file=PATH"


def add_vm_options(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say what to boot."""
    group = parser.add_argument_group("the VM, in cloud-hypervisor's words")
    group.add_argument("--kernel", metavar="FILE", help="bzImage, or ELF with a PVH note")
    group.add_argument("--firmware", metavar="FILE", help="flat image that ends at 4 GiB, or ELF")
    group.add_argument("--initramfs", "--initrd", metavar="FILE", help="initial RAM disk")
    group.add_argument("--cmdline", metavar="TEXT", help="kernel command line")
    group.add_argument(
        "--disk",
        metavar="path=FILE[,readonly=on][,id=ID]",
        nargs="+",
        action="extend",
        default=[],
        help="a raw disk image; may come several times",
    )
    group.add_argument(
        "--net",
        metavar="tap=NAME[,mac=MAC]",
        nargs="+",
        action="extend",
        default=[],
        help="a tap device that is there already; may come several times",
    )
    group.add_argument("--cpus", metavar="boot=N", help="number of vCPUs (default: 1)")
    group.add_argument("--memory", metavar="size=SIZE", help="with K, M or G (default: 512M)")
    group.add_argument(
        "--rng", metavar="src=/dev/urandom", nargs="?", const="", help="a source of random numbers"
    )
    for port in TEXT_PORTS:
        group.add_argument(f"--{port}", metavar="MODE", default="off", help=TEXT_HELP)
    group.add_argument("--log-file", metavar="FILE", help="append one line a mark to FILE")
    group.add_argument(
        "-v", dest="verbose", action="count", default=0, help="as -vv and -vvv: show states, too"
    )
    group.add_argument("--map", metavar="NAME", help="code map that names the codes")
    group.add_argument(
        "--on-full",
        choices=["wait", "drop"],
        help="what a mark does that finds the ring full: let the guest wait, or get lost",
    )


class StartOptions:
    """The options of StartVM and the open descriptors that they name by index."""

    def __init__(self, given: argparse.Namespace, place: Place) -> None:
        """Opens all files; raises UsageError or CtlError, and then none is left open."""
        self.options: dict[str, Variant] = {}
        self.fds: list[int] = []
        self.attached: str | None = None
        """The text port that goes to this terminal."""
        self._place = place
        try:
            self._take_all(given)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the descriptors; the daemon has its own by then. Twice is fine."""
        fds, self.fds = self.fds, []
        for fd in fds:
            os.close(fd)

    def _take_all(self, given: argparse.Namespace) -> None:
        images = {"kernel": given.kernel, "firmware": given.firmware, "initrd": given.initramfs}
        for key, path in images.items():
            if path is not None:
                self.options[key] = self._open(path, os.O_RDONLY)
        if given.log_file is not None:
            self.options["log-file"] = self._open(
                given.log_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT
            )
        texts = {"cmdline": given.cmdline, "code-map": given.map, "on-full": given.on_full}
        self.options |= {key: Variant("s", text) for key, text in texts.items() if text is not None}
        if given.cpus is not None:
            self.options["cpus"] = Variant("u", parse_cpus(given.cpus))
        if given.memory is not None:
            self.options["memory"] = Variant("t", parse_memory(given.memory))
        if given.rng is not None:
            parse_rng(given.rng)
            self.options["rng"] = Variant("b", True)
        for port in TEXT_PORTS:
            self._take_text_port(port, getattr(given, port.replace("-", "_")))
        self._take_devices(given)

    def _take_devices(self, given: argparse.Namespace) -> None:
        if given.disk:
            self.options["disks"] = Variant("aa{sv}", [self._disk(text) for text in given.disk])
        if given.net:
            self.options["net"] = Variant("aa{sv}", [self._net(text) for text in given.net])

    def _take_text_port(self, port: str, mode: str) -> None:
        if mode in ("off", "null"):
            return
        if mode.startswith("file="):
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
            self.options[port] = self._open(mode.removeprefix("file="), flags)
            return
        if mode == "tty":
            if self.attached:
                raise UsageError(f"--{self.attached} has this terminal; give --{port} another mode")
            self.attached, mode = port, "pty"
        if mode not in ("journal", "pty", "socket"):
            raise UsageError(f"--{port} is '{mode}'; it must be {TEXT_HELP}")
        self.options[port] = Variant("s", mode)

    def _disk(self, text: str) -> dict[str, Variant]:
        words = split_words("--disk", text, known=("path", "readonly", "id"))
        readonly = parse_switch("--disk", "readonly", words.get("readonly", "off"))
        if "path" not in words:
            raise UsageError("--disk needs path=FILE; name the disk image")
        way = "name a file that you may use"
        if not readonly:
            way += ", or add readonly=on where you may only read it"
        disk = {
            "path": self._open(words["path"], os.O_RDONLY if readonly else os.O_RDWR, way),
            "readonly": Variant("b", readonly),
        }
        return disk | ({"id": Variant("s", words["id"])} if "id" in words else {})

    def _net(self, text: str) -> dict[str, Variant]:
        words = split_words("--net", text, known=("tap", "mac"))
        if "tap" not in words:
            raise UsageError("--net needs tap=NAME; make one: ip tuntap add NAME mode tap")
        net = {"tap": self._add(open_tap(words["tap"]))}
        return net | ({"mac": Variant("s", words["mac"])} if "mac" in words else {})

    def _open(self, path: str, flags: int, way: str = "name a file that you may use") -> Variant:
        """Open a file to hand it over; raises CtlError, which shows this `way` out."""
        if not self._place.passes_descriptors:
            raise CtlError(
                f"'{path}' cannot go to {self._place.host}: open files do not cross ssh; run "
                f"chdebugctl there (ssh -t {self._place.host} chdebugctl boot ...) with files that "
                "it has"
            )
        try:
            return self._add(os.open(path, flags | os.O_CLOEXEC | os.O_NOCTTY, 0o640))
        except OSError as error:
            raise CtlError(f"Cannot open '{path}': {error.strerror}; {way}") from None

    def _add(self, fd: int) -> Variant:
        self.fds.append(fd)
        return Variant("h", len(self.fds) - 1)
