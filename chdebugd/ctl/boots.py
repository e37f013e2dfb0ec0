"""A boot as the journal tells it: when it began, its host phases and its marks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Self

from chdebugd.ctl.journal import Entry
from chdebugd.trace.event import COMPONENT_OF
from chdebugd.trace.journal import MessageId

HOST = "Host"
"""The stage of what happens before the guest's first instruction."""
ENDS = frozenset({MessageId.VM_STOPPED, MessageId.VM_FAILED, MessageId.VM_RESET})
FIRST_ENTRY = "first-entry"


@dataclass(frozen=True)
class Mark:
    """A byte the guest wrote to port 0x80."""

    code: int
    elapsed_nsec: int
    seq: int
    vcpu: int = 0
    name: str = ""
    """From the code map, empty where it names none."""
    stage: str = ""
    """The code's component, or the stage that the code map gives."""

    @property
    def label(self) -> str:
        """`0x40 kernel-start`."""
        return f"{self.code:#x} {self.name}".rstrip()


@dataclass(frozen=True)
class Phase:
    """A step of the host that was done then."""

    name: str
    elapsed_nsec: int


@dataclass(frozen=True)
class Boot:
    """One boot of a VM. Times are nanoseconds since its start, but for the two that say so."""

    vm: str
    boot_id: str
    marks: tuple[Mark, ...] = ()
    phases: tuple[Phase, ...] = ()
    start_nsec: int = 0
    """CLOCK_MONOTONIC at its start, 0 where the journal does not tell."""
    realtime_nsec: int = 0
    """CLOCK_REALTIME at its start."""
    requested_nsec: int | None = None
    """When the daemon took up the request, before the start and so negative; None: a reset."""
    code_map: str = ""
    cpus: int = 0
    memory: int = 0
    """Bytes."""
    result: str = ""
    """How it ended; empty while it runs."""
    sentence: str = ""
    dropped: int = 0
    """Marks that the ring had no room for."""
    stalled_usec: int = 0
    """How long the VM's guests waited for the journal or the log file."""
    exit_cost_nsec: int = 0
    """What one mark costs the guest on that host, 0 where nobody measured."""

    @property
    def missing(self) -> int:
        """Marks that were made and are not here, by their sequence numbers."""
        return (self.marks[-1].seq if self.marks else 0) - len(self.marks)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        data = {name: getattr(self, name) for name in self.__dataclass_fields__}
        data["marks"] = [_values(mark) for mark in self.marks]
        data["phases"] = [_values(phase) for phase in self.phases]
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """What `to_json` made; raises KeyError, TypeError or ValueError where it did not."""
        known = {name: data[name] for name in cls.__dataclass_fields__ if name in data}
        known["marks"] = tuple(Mark(**each) for each in data["marks"])
        known["phases"] = tuple(Phase(**each) for each in data["phases"])
        boot = cls(**known)
        if not all(isinstance(m.elapsed_nsec, int) and 0 <= m.code < 256 for m in boot.marks):
            raise ValueError("a mark has no time or no code")
        return boot


def _values(each: Mark | Phase) -> dict[str, Any]:
    return {name: getattr(each, name) for name in each.__dataclass_fields__}


@dataclass
class _Draft:
    """What is known of a boot so far."""

    vm: str
    boot_id: str
    marks: dict[int, Mark] = field(default_factory=dict)
    phases: list[Phase] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)

    def boot(self) -> Boot:
        marks = tuple(self.marks[seq] for seq in sorted(self.marks))
        phases = tuple(sorted(self.phases, key=lambda phase: phase.elapsed_nsec))
        return Boot(self.vm, self.boot_id, marks, phases, **self.about)

    def take(self, entry: Entry) -> None:
        kind = entry.get("MESSAGE_ID", "")
        if kind == MessageId.EVENT:
            mark = _mark(entry)
            self.marks.setdefault(mark.seq, mark)
        elif kind == MessageId.HOST_PHASE:
            self.phases.append(Phase(entry["PHASE"], int(entry["ELAPSED_NSEC"])))
        elif kind == MessageId.VM_STARTED:
            self.about |= _started(entry)
        elif kind in ENDS:
            result = "reset" if kind == MessageId.VM_RESET else entry.get("RESULT", "")
            self.about |= {"result": result, "sentence": entry.get("MESSAGE", "")}
        elif kind == MessageId.VM_DROPPED:
            self.about["dropped"] = self.about.get("dropped", 0) + int(entry["DROPPED"])
        elif kind == MessageId.VM_STALLED:
            self.about["stalled_usec"] = int(entry["STALLED_USEC"])
        elif kind == MessageId.EXIT_COST:
            self.about["exit_cost_nsec"] = int(entry["EXIT_COST_NSEC"])


def _mark(entry: Entry) -> Mark:
    code = int(entry["CODE"], 16)
    return Mark(
        code,
        int(entry["ELAPSED_NSEC"]),
        int(entry["SEQ"]),
        int(entry.get("VCPU", "0")),
        entry.get("CODE_NAME", ""),
        entry.get("CODE_STAGE") or COMPONENT_OF[code],
    )


def _started(entry: Entry) -> dict[str, Any]:
    start = int(entry.get("START_NSEC", "0"))
    requested = entry.get("REQUESTED_NSEC")
    # What both clocks said when journald got the entry puts the start on the other clock.
    realtime, monotonic = (
        int(entry[name]) * 1000 for name in ("__REALTIME_TIMESTAMP", "__MONOTONIC_TIMESTAMP")
    )
    return {
        "start_nsec": start,
        "realtime_nsec": realtime - monotonic + start if start else realtime,
        "requested_nsec": int(requested) - start if requested else None,
        "code_map": entry.get("CODE_MAP", ""),
        "cpus": int(entry.get("CPUS", "0")),
        "memory": int(entry.get("MEMORY", "0")),
    }


def boots_of(entries: Iterable[Entry]) -> list[Boot]:
    """The boots that entries tell of, in the order of their first entry.

    An entry whose fields make no sense tells nothing.
    """
    drafts: dict[str, _Draft] = {}
    for entry in entries:
        boot_id = entry.get("VM_BOOT", "")
        if not boot_id or "VM" not in entry:
            continue
        draft = drafts.setdefault(boot_id, _Draft(entry["VM"], boot_id))
        try:
            draft.take(entry)
        except (KeyError, ValueError, IndexError):
            continue
    return [draft.boot() for draft in drafts.values()]
