"""What all tests share: the loud lines about what is not there to test with."""

from __future__ import annotations

import os

import pytest
from _pytest.terminal import TerminalReporter

from tests.efi_disk import hypervisor_firmware, shim

HAS_KVM = os.access("/dev/kvm", os.R_OK | os.W_OK)
NO_FIRMWARE = "CHDEBUGD_HYPERVISOR_FW names no rust-hypervisor-firmware"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests with real guests need the device, some a firmware that no package has."""
    for item in items:
        if not HAS_KVM and item.get_closest_marker("kvm"):
            item.add_marker(pytest.mark.skip(reason="no /dev/kvm that this user may open"))
        if not hypervisor_firmware() and item.get_closest_marker("hypervisor_fw"):
            item.add_marker(pytest.mark.skip(reason=NO_FIRMWARE))


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """Say it where nobody can miss it."""
    if not HAS_KVM:
        terminalreporter.section("NO /dev/kvm: ALL TESTS WITH REAL GUESTS WERE SKIPPED", sep="!")
    skipped = terminalreporter.stats.get("skipped", [])
    if any(NO_FIRMWARE in str(report.longrepr) for report in skipped):
        title = f"rust-hypervisor-firmware WAS NOT TRIED: {NO_FIRMWARE}"
        terminalreporter.section(title, sep="!")
    if hypervisor_firmware() and not shim():
        terminalreporter.section("NO SHIM WAS TRIED: CHDEBUGD_SHIM names none", sep="!")
