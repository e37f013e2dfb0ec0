"""The gate of the vCPU threads."""

from __future__ import annotations

from chdebugd.vmm.gate import Gate


def test_a_gate_that_has_ended_opens_no_more() -> None:
    """A look at a halted guest opens it again, and the run may have ended just before."""
    gate = Gate()
    gate.end()
    gate.open()

    assert not gate.is_open
    assert not gate.pass_through()
