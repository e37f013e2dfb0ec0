"""What all tests share: the loud line about a missing /dev/kvm."""

from __future__ import annotations

import os

import pytest
from _pytest.terminal import TerminalReporter

HAS_KVM = os.access("/dev/kvm", os.R_OK | os.W_OK)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests with real guests need the device."""
    if HAS_KVM:
        return
    skip = pytest.mark.skip(reason="no /dev/kvm that this user may open")
    for item in items:
        if item.get_closest_marker("kvm"):
            item.add_marker(skip)


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """Say it where nobody can miss it."""
    if not HAS_KVM:
        terminalreporter.section("NO /dev/kvm: ALL TESTS WITH REAL GUESTS WERE SKIPPED", sep="!")
