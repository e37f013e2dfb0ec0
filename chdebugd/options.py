"""The options of StartVM: the only place that knows their keys, types and ranges.

Whatever is wrong raises InvalidOptionError with the key in its sentence, before anything is opened
or started.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

from chdebugd.control import FileRole, StartRequest
from chdebugd.errors import InvalidNameError, LimitExceededError
from chdebugd.given import FileOption, Parser, Value, given_to_json
from chdebugd.limits import Limits

NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}", re.ASCII)
PAGE = 4096
MEMORY_MIN = 1 << 20
CMDLINE_MAX = 65535
TEXT_MODES = "off, journal, pty, socket or file:PATH"
LOGS = frozenset({"log-file", "serial", "debug-console", "firmware-debug"})
MAC = re.compile(r"[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}")


@dataclass(frozen=True)
class VmOptions:
    """Checked options. `request` has no files yet; `files` says what to open for it."""

    request: StartRequest
    files: tuple[FileOption, ...]
    given: dict[str, Value] = field(default_factory=dict)
    """As the caller gave them, for the property Options."""

    @classmethod
    def empty(cls) -> Self:
        """No options at all: the demo guest."""
        return cls(StartRequest(), ())

    def to_json(self) -> dict[str, Any]:
        """The options as given, in JSON's types."""
        return given_to_json(self.given)

    @property
    def names_paths(self) -> bool:
        """Whether the daemon is to open a file that lies anywhere but in its log directory."""
        return any(
            each.path is not None
            and (each.role.role not in LOGS or each.path.startswith("/") or ".." in each.path)
            for each in self.files
        )


def check_name(name: str) -> str:
    """The name itself; raises InvalidNameError."""
    if not NAME.fullmatch(name):
        raise InvalidNameError(
            f"'{name[:80]}' is not a VM name; use 1 to 64 of letters, digits, '-', '_' and '.', "
            "and no '.' in front"
        )
    return name


KNOWN = (
    "kernel initrd cmdline firmware cpus memory disks net rng serial debug-console firmware-debug "
    "log-file log-level code-map on-full"
)


def parse_options(given: dict[str, Value], limits: Limits) -> VmOptions:
    """Check all options; raises InvalidOptionError or LimitExceededError."""
    parser = Parser(given)
    files: list[FileOption] = []
    for key in ("kernel", "initrd", "firmware", "log-file"):
        option = parser.file(key, FileRole(key, "descriptor", key != "log-file"))
        files.extend([option] if option else [])
    _check_images({each.role.role for each in files}, parser)
    request = StartRequest(
        cpus=_in_range(parser, "cpus", "u", 1, 1, limits.vcpus_per_vm),
        memory=_memory(parser, limits),
        cmdline=_cmdline(parser),
        rng=bool(parser.take("rng", "b", False)),
        serial=_text_port(parser, "serial", files),
        debug_console=_text_port(parser, "debug-console", files),
        firmware_debug=_text_port(parser, "firmware-debug", files),
        log_level=parser.choice("log-level", "debug", ("error", "warning", "info", "debug")),
        code_map=_code_map(parser),
        on_full=parser.choice("on-full", "wait", ("wait", "drop")),
    )
    files.extend(_devices(parser, "disks", _disk))
    files.extend(_devices(parser, "net", _net))
    parser.finish(KNOWN)
    return VmOptions(request, tuple(files), given)


def _check_images(roles: set[str], parser: Parser) -> None:
    if {"kernel", "firmware"} <= roles:
        raise parser.error("firmware", "cannot stand beside 'kernel'; give one of them")
    if "initrd" in roles and "kernel" not in roles:
        raise parser.error("initrd", "needs a 'kernel'; give both")


def _in_range(parser: Parser, key: str, signature: str, default: int, low: int, high: int) -> int:
    value = int(parser.take(key, signature, default))
    if value < low:
        raise parser.error(key, f"is {value}; it must be at least {low}")
    if value > high:
        raise LimitExceededError(
            f"Option '{key}' is {value}; the limit is {high} "
            "(see chdebugd.conf and the host's size)"
        )
    return value


def _memory(parser: Parser, limits: Limits) -> int:
    memory = _in_range(parser, "memory", "t", 512 << 20, MEMORY_MIN, limits.memory_per_vm)
    if memory % PAGE:
        raise parser.error("memory", f"is {memory} bytes; it must be a multiple of {PAGE}")
    return memory


def _cmdline(parser: Parser) -> str:
    cmdline = str(parser.take("cmdline", "s", ""))
    if len(cmdline.encode()) > CMDLINE_MAX:
        raise parser.error("cmdline", f"is longer than {CMDLINE_MAX} bytes; shorten it")
    return cmdline


def _code_map(parser: Parser) -> str:
    name = str(parser.take("code-map", "s", ""))
    if name and not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
        raise parser.error("code-map", f"is '{name[:80]}'; give a map's name, such as u-boot")
    return name


def _text_port(parser: Parser, key: str, files: list[FileOption]) -> str:
    """The mode; `file:PATH` and a descriptor add a file and become `file`."""
    if parser.is_descriptor(key):
        option = parser.file(key, FileRole(key, "descriptor", False))
        files.extend([option] if option else [])
        return "file"
    mode = str(parser.take(key, "s", "off"))
    if mode.startswith("file:") and len(mode) > len("file:"):
        path = mode.removeprefix("file:")
        files.append(FileOption(FileRole(key, path, False), path))
        return "file"
    if mode not in ("off", "journal", "pty", "socket"):
        raise parser.error(key, f"is '{mode[:80]}'; it must be {TEXT_MODES}")
    return mode


def _devices(
    parser: Parser, key: str, parse: Callable[[Parser, int], FileOption]
) -> list[FileOption]:
    """An array of dictionaries, each one device."""
    devices: list[FileOption] = []
    for at, each in enumerate(parser.take(key, "aa{sv}", [])):
        inner = Parser(each, f"{key}[{at}].")
        devices.append(parse(inner, at))
        if devices[-1].role.id in {other.role.id for other in devices[:-1]}:
            raise inner.error("id", f"is '{devices[-1].role.id}' a second time; give another")
        inner.finish("path readonly id" if key == "disks" else "tap mac")
    return devices


def _disk(parser: Parser, at: int) -> FileOption:
    readonly = bool(parser.take("readonly", "b", False))
    name = str(parser.take("id", "s", f"disk{at}"))
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,20}", name):
        raise parser.error("id", "must be 1 to 20 of letters, digits, '-' and '_'")
    option = parser.file("path", FileRole("disk", "descriptor", readonly, name))
    if option is None:
        raise parser.error("path", "is missing; name the disk image")
    return option


def _net(parser: Parser, at: int) -> FileOption:
    mac = str(parser.take("mac", "s", f"52:54:00:80:00:{at & 0xFF:02x}"))
    if not MAC.fullmatch(mac) or int(mac[:2], 16) & 1:
        raise parser.error("mac", f"is '{mac[:80]}'; give a unicast MAC address")
    option = parser.file("tap", FileRole("tap", "descriptor", False, f"net{at}", mac))
    if option is None or option.path is not None:
        raise parser.error("tap", "must be a descriptor of an open tap device")
    return option
