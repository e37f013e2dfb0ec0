"""Where the shipped unit lets disks lie."""

from __future__ import annotations

import pytest

from tests.lab.guest import Guest
from tests.lab.outer import LabError, OuterMachine


def test_a_disk_that_the_service_may_not_write_is_refused_with_the_place_to_put_it(
    outer: OuterMachine,
) -> None:
    outer.run("truncate --size=1M /srv/elsewhere.img && chmod 666 /srv/elsewhere.img")

    with pytest.raises(LabError, match="put it under /var/lib/chdebugd"):
        Guest(outer, "elsewhere").start(disks=[{"path": "/srv/elsewhere.img"}])
