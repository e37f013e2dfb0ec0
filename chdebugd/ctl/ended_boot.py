"""Waits until the journal has the end of a boot: the VM's process and journald take a moment.

A boot's entries come in their order, so that with its end all of its marks are there.
"""

from __future__ import annotations

import time

from chdebugd.ctl.boots import ENDS
from chdebugd.ctl.journal import entries
from chdebugd.ctl.place import Place

PAUSE = 0.05  # seconds between two looks


def wait_for_end(place: Place, boot_id: str, *, first: float, whole: float) -> bool:
    """Whether the end came within `whole` seconds.

    Gives up after `first` seconds where there is nothing of the boot at all: who may not read the
    journal never sees it. Raises CtlError where journalctl fails.
    """
    boot, began = f"VM_BOOT={boot_id}", time.monotonic()
    ends = [f"MESSAGE_ID={kind}" for kind in ENDS]
    while not any(True for _ in entries(place, *ends, boot)):
        waited = time.monotonic() - began
        if waited > whole:
            return False
        if waited > first and not any(True for _ in entries(place, boot, newest=1)):
            return False
        time.sleep(PAUSE)
    return True
