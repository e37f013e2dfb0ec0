"""The commands of the README, as they are typed."""

from __future__ import annotations

import pytest
from container.container import Container

from tests.system.conftest import DEMO_EVENTS, wait_state

pytestmark = pytest.mark.kvm


def test_a_guest_that_systemd_runs_leaves_its_marks(container: Container) -> None:
    path = container.start_vm("demo", ("log-file", "s", "demo.log"))
    wait_state(container, "demo", "stopped")

    entries = container.marks("demo")
    log = container.get("/var/log/chdebugd/demo.log").decode()
    assert path == "/org/chdebugd1/vm/demo"
    assert [entry["SEQ"] for entry in entries] == [str(n) for n in range(1, DEMO_EVENTS + 1)]
    assert len(log.splitlines()) == DEMO_EVENTS


def test_others_are_refused(container: Container) -> None:
    stranger = container.user("stranger")
    words = ["call", "org.chdebugd1", "/org/chdebugd1", "org.chdebugd1.Manager", "StartVM"]
    refused = container.busctl(*words, "sa{sv}", "no", "0", user=stranger, check=False)

    assert refused.returncode != 0
    assert "org.chdebugd1.start-vm; join the group chdebugd" in refused.stderr
