"""The values of cloud-hypervisor's flags: `boot=4,max=4`, `size=1024M`, `path=FILE,readonly=on`."""

from __future__ import annotations

import re

from chdebugd.ctl.errors import UsageError

SIZE = re.compile(r"([0-9]+)([KMGT]?)")
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
SWITCH = {"on": True, "true": True, "off": False, "false": False}


def split_words(flag: str, text: str, known: tuple[str, ...]) -> dict[str, str]:
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


def parse_switch(flag: str, key: str, value: str) -> bool:
    """on or off; raises UsageError."""
    if value not in SWITCH:
        raise UsageError(f"{flag}: {key} is '{value}'; it must be on or off")
    return SWITCH[value]


def parse_cpus(text: str) -> int:
    """`boot=4`, or just `4`; raises UsageError."""
    words = split_words("--cpus", text if "=" in text else f"boot={text}", known=("boot", "max"))
    count = words.get("boot", words.get("max", ""))
    if not count.isdecimal() or not 0 < int(count) < 1 << 32:
        raise UsageError(f"--cpus: '{count}' is not a number of vCPUs; give boot=N")
    if words.get("max", count) != count:
        raise UsageError("--cpus: vCPUs cannot be added later; give max the number of boot")
    return int(count)


def parse_memory(text: str) -> int:
    """`size=1024M`, or just `1024M`, in bytes; raises UsageError."""
    words = split_words("--memory", text if "=" in text else f"size={text}", known=("size",))
    size = SIZE.fullmatch(words["size"].upper().removesuffix("IB"))
    if not size or not 0 < (count := int(size[1]) * UNITS[size[2]]) < 1 << 64:
        raise UsageError(f"--memory: '{words['size']}' is not a size; give size=1024M")
    return count


def parse_rng(text: str) -> None:
    """Raises UsageError where the source is not the kernel's."""
    source = split_words("--rng", text, known=("src",))["src"] if text else "/dev/urandom"
    if source not in ("/dev/urandom", "/dev/random"):
        raise UsageError(f"--rng: '{source}' is not supported; leave src out, for /dev/urandom")
