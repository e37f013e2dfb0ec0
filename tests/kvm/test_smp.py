"""Several processors: how they start, and whose mark is whose."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from chdebugd.vmm.boot.loader import BootSource
from chdebugd.vmm.outcome import Result
from tests.kvm.conftest import Run, image_of
from tests.smp import FIRST_CODE, smp_kernel

pytestmark = pytest.mark.kvm


@pytest.mark.parametrize("n_cpus", [1, 2, 4, 16])
def test_each_vcpu_makes_its_own_mark(run: Callable[..., Run], n_cpus: int) -> None:
    image = image_of(smp_kernel(n_cpus), "kernel")

    result = run(image, boot=BootSource(kernel=image), cpus=n_cpus)

    assert result.outcome.result == Result.SHUTDOWN
    marks = {event.vcpu: event.code for event in result.events}
    assert marks == {index: FIRST_CODE + index for index in range(n_cpus)}
    assert len(result.events) == n_cpus
