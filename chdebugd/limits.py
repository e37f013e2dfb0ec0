"""What one daemon allows, from /etc/chdebugd/chdebugd.conf with defaults for this host."""

from __future__ import annotations

import os
import tomllib
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

CONFIG = Path("/etc/chdebugd/chdebugd.conf")
OVERCOMMIT = 8


class ConfigError(Exception):
    """The configuration file cannot be used; the sentence says where."""


@dataclass(frozen=True)
class Limits:
    """Upper bounds; a refusal is LimitExceeded with the bound in its sentence."""

    vms: int = 256
    vms_per_user: int = 256
    vcpus_per_vm: int = 64
    vcpus_per_user: int = 1024
    vcpus_total: int = 1024
    memory_per_vm: int = 0
    """Bytes; 0 in the file means the host's memory."""
    memory_per_user: int = 0
    memory_total: int = 0
    """Bytes; 0 in the file means OVERCOMMIT times the host's memory: guests seldom use all."""
    bytes_per_file: int = 256 << 20
    """A log file, or the file of a text port; 0 is no limit."""
    events_per_call: int = 10_000
    """What GetEvents returns at most."""
    requests_per_caller: int = 128
    """Calls of one bus connection that wait for their answers."""

    def to_dict(self) -> dict[str, int]:
        """By the names that the property Limits shows."""
        return {key.replace("_", "-"): value for key, value in asdict(self).items()}


def host_memory() -> int:
    """Bytes of RAM."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def load_limits(path: Path = CONFIG) -> Limits:
    """The limits; a missing file means the defaults. Raises ConfigError."""
    try:
        data = tomllib.loads(path.read_text())
    except FileNotFoundError:
        data = {}
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"Cannot read {path}: {error}; mend or remove it") from None
    return _of_this_host(_apply(Limits(), data.get("limits", {}), path))


def _of_this_host(limits: Limits) -> Limits:
    """Zeros become what this host has."""
    host = host_memory()
    return replace(
        limits,
        memory_per_vm=limits.memory_per_vm or host,
        memory_per_user=limits.memory_per_user or OVERCOMMIT * host,
        memory_total=limits.memory_total or OVERCOMMIT * host,
    )


def _apply(limits: Limits, table: object, path: Path) -> Limits:
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: [limits] must be a table")
    known = {each.name for each in fields(Limits)}
    for key, value in table.items():
        name = str(key).replace("-", "_")
        if name not in known:
            raise ConfigError(f"{path}: limit '{key}' is unknown; known are {', '.join(known)}")
        if type(value) is not int or not 0 <= value < 1 << 63:
            raise ConfigError(f"{path}: limit '{key}' must be a number from 0 to 2**63 - 1")
        limits = replace(limits, **{name: value})
    return limits
