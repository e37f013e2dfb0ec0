"""The lab: one outer machine for all its tests, with the .deb of this checkout installed by apt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lab.guest import Guest
from tests.lab.installed import installed
from tests.lab.outer import OuterMachine


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests here are of the lab."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.lab)


@pytest.fixture(scope="session")
def outer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OuterMachine]:
    with installed(tmp_path_factory.mktemp("lab")) as outer:
        yield outer


def guests(outer: OuterMachine) -> Iterator[Callable[[str], Guest]]:
    """Makes guests; at the end they are removed."""
    made = []

    def make(name: str) -> Guest:
        made.append(guest := Guest(outer, name))
        return guest

    yield make
    for guest in made:
        guest.remove()


guest = pytest.fixture(guests, name="guest")
module_guest = pytest.fixture(guests, name="module_guest", scope="module")
