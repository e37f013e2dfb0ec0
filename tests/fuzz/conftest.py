"""How much is tried: what CI can pay, times CHDEBUGD_FUZZ, and from which seed."""

from __future__ import annotations

import os
import random

import pytest

from tests.dbus.conftest import broker, bus_address, daemon
from tests.kvm.conftest import build, kvm, ring, wakers

__all__ = ["FACTOR", "broker", "build", "bus_address", "daemon", "kvm", "ring", "seed", "wakers"]

FACTOR = int(os.environ.get("CHDEBUGD_FUZZ", "1"))


@pytest.fixture
def seed() -> int:
    """CI tries the same each time, `make fuzz` something new; a failure shows it."""
    default = 0x80 if FACTOR == 1 else random.SystemRandom().getrandbits(31)
    seed = int(os.environ.get("CHDEBUGD_FUZZ_SEED", default))
    print(f"CHDEBUGD_FUZZ_SEED={seed}")
    return seed
