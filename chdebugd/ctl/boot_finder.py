"""Finds the boots that a user names.

VM            its newest boot in the journal
VM:N          N 0 or below: the newest, the one before it (-1), ...; above: the first (1), ...
VM:*          all of its boots
BOOT          a boot's id, 32 hexadecimal digits, or the first of them (at least 6)
FILE.json     the boots of a saved run
"""

from __future__ import annotations

import re
from pathlib import Path

from chdebugd.ctl.boots import Boot, boots_of
from chdebugd.ctl.errors import CtlError, UsageError
from chdebugd.ctl.journal import NO_ACCESS, entries
from chdebugd.ctl.place import Place
from chdebugd.ctl.saved_runs import load_boots
from chdebugd.trace.journal import MessageId

VM_AND_NUMBER = re.compile(r"(?P<vm>[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}):(?P<number>\*|-?[0-9]{1,6})")
VM = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}")
BOOT_ID = re.compile(r"[0-9a-f]{6,32}")
ID_LENGTH = 32


def find_boots(place: Place, spec: str) -> list[Boot]:
    """The boots of a specification, at least one; raises CtlError."""
    if "/" in spec or spec.endswith(".json"):
        return load_boots(Path(spec))
    if numbered := VM_AND_NUMBER.fullmatch(spec):
        return _numbered(place, numbered["vm"], numbered["number"])
    if not VM.fullmatch(spec):
        raise UsageError(f"'{spec}' names no boot; give VM, VM:-1, VM:*, a boot's id or FILE.json")
    boot_ids = boot_ids_of(place, spec)
    if boot_ids:
        return _read(place, boot_ids[-1:])
    if BOOT_ID.fullmatch(spec):
        return _read(place, [_whole_id(place, spec)])
    raise CtlError(_nothing(place, spec))


def find_boot(place: Place, spec: str) -> Boot:
    """The one boot of a specification; raises CtlError."""
    boots = find_boots(place, spec)
    if len(boots) > 1:
        raise UsageError(f"'{spec}' names {len(boots)} boots; name one, such as VM:-1")
    return boots[0]


def boot_ids_of(place: Place, vm: str) -> list[str]:
    """The boots of a VM in the journal, the oldest first; those without a mark are among them."""
    found = entries(place, f"MESSAGE_ID={MessageId.VM_STARTED}", f"VM={vm}")
    boot_ids = dict.fromkeys(entry["VM_BOOT"] for entry in found if entry.get("VM_BOOT"))
    if boot_ids:
        return list(boot_ids)
    # The start's entry may be gone, or the log level leaves it out.
    marks = entries(place, f"MESSAGE_ID={MessageId.EVENT}", f"VM={vm}", newest=1)
    return [entry["VM_BOOT"] for entry in marks if entry.get("VM_BOOT")]


def _numbered(place: Place, vm: str, number: str) -> list[Boot]:
    boot_ids = boot_ids_of(place, vm)
    if not boot_ids:
        raise CtlError(_nothing(place, vm))
    if number == "*":
        return _read(place, boot_ids)
    at = int(number) - 1 if int(number) > 0 else len(boot_ids) - 1 + int(number)
    if not 0 <= at < len(boot_ids):
        raise CtlError(
            f"VM '{vm}' has {len(boot_ids)} boots in the journal; boot {number} is not among them"
        )
    return _read(place, [boot_ids[at]])


def _whole_id(place: Place, start: str) -> str:
    if len(start) == ID_LENGTH:
        return start
    starts = entries(place, f"MESSAGE_ID={MessageId.VM_STARTED}")
    found = {entry["VM_BOOT"] for entry in starts if entry.get("VM_BOOT", "").startswith(start)}
    if len(found) != 1:
        how_many = f"{len(found)} boots have" if found else "no boot has"
        raise CtlError(
            f"In the journal {how_many} an id that begins with '{start}'; give more of it"
        )
    return found.pop()


def read_boot(place: Place, boot_id: str) -> Boot:
    """What the journal has of a boot; raises CtlError where that is nothing."""
    return _read(place, [boot_id])[0]


def _read(place: Place, boot_ids: list[str]) -> list[Boot]:
    matches = [f"VM_BOOT={boot_id}" for boot_id in boot_ids]
    boots = boots_of(entries(place, *matches))
    if not boots:
        raise CtlError(_nothing(place, boot_ids[0]))
    return boots


def _nothing(place: Place, spec: str) -> str:
    return f"The journal{place.label} has no boot of '{spec}'; {NO_ACCESS}"
