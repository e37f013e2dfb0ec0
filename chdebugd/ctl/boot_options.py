"""cloud-hypervisor's own flags for a VM, as the options and descriptors of StartVM.

Files are opened here, as the user who asks, and go along as descriptors: so a member of the group
needs no right that the daemon would have to lend.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import re
import struct
from types import TracebackType
from typing import Self

from chdebugd.ctl.errors import CtlError, UsageError
from chdebugd.ctl.place import Place
from chdebugd.dbus_library import Variant

TUN = "/dev/net/tun"
# linux/if_tun.h
TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
IFNAMSIZ = 16
SIZE = re.compile(r"([0-9]+)([KMGT]?)")
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
SWITCH = {"on": True, "true": True, "off": False, "false": False}
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
        words = _words("--disk", text, known=("path", "readonly", "id"))
        readonly = _switch("--disk", "readonly", words.get("readonly", "off"))
        if "path" not in words:
            raise UsageError("--disk needs path=FILE; name the disk image")
        disk = {
            "path": self._open(words["path"], os.O_RDONLY if readonly else os.O_RDWR),
            "readonly": Variant("b", readonly),
        }
        return disk | ({"id": Variant("s", words["id"])} if "id" in words else {})

    def _net(self, text: str) -> dict[str, Variant]:
        words = _words("--net", text, known=("tap", "mac"))
        if "tap" not in words:
            raise UsageError("--net needs tap=NAME; make one: ip tuntap add NAME mode tap")
        net = {"tap": self._add(open_tap(words["tap"]))}
        return net | ({"mac": Variant("s", words["mac"])} if "mac" in words else {})

    def _open(self, path: str, flags: int) -> Variant:
        if not self._place.passes_descriptors:
            raise CtlError(
                f"'{path}' cannot go to {self._place.host}: open files do not cross ssh; run "
                f"chdebugctl there (ssh -t {self._place.host} chdebugctl boot ...) with files that "
                "it has"
            )
        try:
            return self._add(os.open(path, flags | os.O_CLOEXEC | os.O_NOCTTY, 0o640))
        except OSError as error:
            raise CtlError(
                f"Cannot open '{path}': {error.strerror}; name a file that you may use"
            ) from None

    def _add(self, fd: int) -> Variant:
        self.fds.append(fd)
        return Variant("h", len(self.fds) - 1)


def open_tap(name: str) -> int:
    """A descriptor of the tap device `name` (networking/tuntap.rst); raises CtlError."""
    if not 0 < len(name.encode()) < IFNAMSIZ:
        raise UsageError(f"'{name}' is not a network device; a name has 1 to {IFNAMSIZ - 1} bytes")
    try:
        fd = os.open(TUN, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise CtlError(
            f"Cannot open {TUN}: {error.strerror}; modprobe tun, or ask as root"
        ) from None
    try:
        flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR
        request = struct.pack("16sH22x", name.encode(), flags)  # struct ifreq
        fcntl.ioctl(fd, TUNSETIFF, request)
    except OSError as error:
        os.close(fd)
        raise CtlError(
            f"Cannot use tap '{name}': {error.strerror}; make it yours: "
            f"ip tuntap add {name} mode tap user $USER"
        ) from None
    return fd


def _words(flag: str, text: str, known: tuple[str, ...]) -> dict[str, str]:
    """`a=1,b=2` as a dictionary; raises UsageError for keys that are not known."""
    words: dict[str, str] = {}
    keys = f"known keys are {', '.join(known)}"
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if not equals or not value:
            raise UsageError(f"{flag}: '{part}' is not KEY=VALUE; {keys}")
        if key not in known:
            raise UsageError(f"{flag}: '{key}' is not supported; {keys}")
        if key in words:
            raise UsageError(f"{flag}: '{key}' comes twice; give it once")
        words[key] = value
    return words


def _switch(flag: str, key: str, value: str) -> bool:
    if value not in SWITCH:
        raise UsageError(f"{flag}: {key} is '{value}'; it must be on or off")
    return SWITCH[value]


def parse_cpus(text: str) -> int:
    """`boot=4`, or just `4`; raises UsageError."""
    words = _words("--cpus", text if "=" in text else f"boot={text}", known=("boot", "max"))
    count = words.get("boot", words.get("max", ""))
    if not count.isdecimal() or not 0 < int(count) < 1 << 32:
        raise UsageError(f"--cpus: '{count}' is not a number of vCPUs; give boot=N")
    if words.get("max", count) != count:
        raise UsageError("--cpus: vCPUs cannot be added later; give max the number of boot")
    return int(count)


def parse_memory(text: str) -> int:
    """`size=1024M`, or just `1024M`, in bytes; raises UsageError."""
    words = _words("--memory", text if "=" in text else f"size={text}", known=("size",))
    size = SIZE.fullmatch(words["size"].upper().removesuffix("IB"))
    if not size or not 0 < (count := int(size[1]) * UNITS[size[2]]) < 1 << 64:
        raise UsageError(f"--memory: '{words['size']}' is not a size; give size=1024M")
    return count


def parse_rng(text: str) -> None:
    """Raises UsageError where the source is not the kernel's."""
    source = _words("--rng", text, known=("src",))["src"] if text else "/dev/urandom"
    if source not in ("/dev/urandom", "/dev/random"):
        raise UsageError(f"--rng: '{source}' is not supported; leave src out, for /dev/urandom")
