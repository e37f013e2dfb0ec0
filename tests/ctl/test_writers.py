"""Whose journal entries chdebugctl believes."""

from __future__ import annotations

import os

from chdebugd.ctl.journal import Entry, Writers

UNIT = "chdebugd-vm@fw0.service"
STRANGER = str(os.getuid() + 4711)


def entry(user: str, unit: str = "", machine: str = "a") -> Entry:
    found = {"_UID": user, "_MACHINE_ID": machine}
    return found | {"_SYSTEMD_UNIT": unit} if unit else found


def test_an_entry_of_a_dead_process_is_known_by_its_user() -> None:
    """journald read it when it could no longer find out the unit."""
    writers = Writers()

    assert writers.wrote(entry(STRANGER, UNIT))
    assert writers.wrote(entry(STRANGER))


def test_a_user_is_believed_on_the_machine_of_the_unit_only() -> None:
    writers = Writers()
    writers.wrote(entry(STRANGER, UNIT))

    assert not writers.wrote(entry(STRANGER, machine="b"))


def test_a_stranger_is_not_believed() -> None:
    writers = Writers()

    assert not writers.wrote(entry(STRANGER))
    assert not writers.wrote(entry(STRANGER, "user@1000.service"))


def test_root_and_our_own_processes_are_believed() -> None:
    writers = Writers()

    assert writers.wrote(entry("0"))
    assert writers.wrote(entry(str(os.getuid())))
