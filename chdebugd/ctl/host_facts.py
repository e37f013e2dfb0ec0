"""What a measurement depends on beside the guest: the host, as far as it tells."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime

from chdebugd import __version__
from chdebugd.ctl.place import Place

HEAD = re.compile(r"^==> (\S+) <==\n(.*?)(?=^==> |\Z)", re.MULTILINE | re.DOTALL)  # of tail(1)
CPU_MODEL = re.compile(r"model name\s*:\s*(.+)")
FILES: dict[str, tuple[str, Callable[[str], str]]] = {
    "cpu": ("/proc/cpuinfo", lambda text: _first(CPU_MODEL, text)),
    "cpus": ("/proc/cpuinfo", lambda text: str(text.count("model name"))),
    "under_hypervisor": ("/proc/cpuinfo", lambda text: str(" hypervisor" in text).lower()),
    "kernel": ("/proc/sys/kernel/osrelease", str.strip),
    "governor": ("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", str.strip),
    "kvm_intel_nested": ("/sys/module/kvm_intel/parameters/nested", str.strip),
    "kvm_amd_nested": ("/sys/module/kvm_amd/parameters/nested", str.strip),
    "kvm_halt_poll_ns": ("/sys/module/kvm/parameters/halt_poll_ns", str.strip),
    "load": ("/proc/loadavg", lambda text: text.split()[0]),
}
"""Fact by file, and how it is made of the file's text."""


def host_facts(place: Place) -> dict[str, str]:
    """The facts of that machine; one that it does not tell is left out."""
    texts = _read(place, sorted({path for path, _ in FILES.values()}))
    facts = {name: make(texts[path]) for name, (path, make) in FILES.items() if texts[path]}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return facts | {"chdebugctl": __version__, "date": now}


def _read(place: Place, paths: list[str]) -> dict[str, str]:
    """The texts of files there, in one go; empty where there is none."""
    command = place.command("tail", "--lines=+1", "--verbose", "--", *paths)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    texts = dict.fromkeys(paths, "")
    for path, text in HEAD.findall(done.stdout):
        texts[path] = text
    return texts


def _first(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return found[1].strip() if found else "unknown"
