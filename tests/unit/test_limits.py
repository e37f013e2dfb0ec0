"""Limits from a file, and who is refused by which."""

from __future__ import annotations

from pathlib import Path

import pytest

from chdebugd.control import StartRequest, Status
from chdebugd.errors import LimitExceededError, VMExistsError
from chdebugd.limits import OVERCOMMIT, ConfigError, Limits, host_memory, load_limits
from chdebugd.options import VmOptions
from chdebugd.room import check_room

MIB = 1 << 20
LIMITS = Limits(
    vms=4,
    vms_per_user=3,
    vcpus_per_vm=5,
    vcpus_per_user=4,
    vcpus_total=6,
    memory_per_vm=120 * MIB,
    memory_per_user=100 * MIB,
    memory_total=150 * MIB,
)
ANN, BOB = 1000, 1001


class Used:
    """As much of a VM as a limit counts."""

    def __init__(self, name: str, owner: int, cpus: int = 1, memory: int = MIB) -> None:
        self.name = name
        self.owner = owner
        self.options = VmOptions(StartRequest(cpus=cpus, memory=memory), ())
        self.status = Status("running")

    @property
    def has_ended(self) -> bool:
        return self.status.state == "stopped"


def check(*vms: Used, owner: int = ANN, cpus: int = 1, memory: int = MIB) -> None:
    check_room(LIMITS, list(vms), "new", owner, StartRequest(cpus=cpus, memory=memory))  # type: ignore[arg-type]


def test_there_is_room() -> None:
    check(Used("a", ANN), Used("b", ANN), Used("c", BOB), cpus=2, memory=98 * MIB)


def test_a_name_is_taken() -> None:
    with pytest.raises(VMExistsError):
        check(Used("new", BOB))


@pytest.mark.parametrize(
    ("vms", "more", "sentence"),
    [
        ([Used("abcd"[at], at) for at in range(4)], {}, "There are 4 VMs"),
        ([Used("abc"[at], ANN) for at in range(3)], {}, "User 1000 has 3 VMs"),
        ([], {"cpus": 6}, "6 vCPUs for one VM"),
        ([], {"memory": 121 * MIB}, "126877696 bytes of guest memory for one VM"),
        ([Used("a", ANN, cpus=3)], {"cpus": 2}, "User 1000 has 3 vCPUs"),
        ([Used("a", BOB, cpus=3)], {"cpus": 4}, "There are 3 vCPUs"),
        ([Used("a", ANN, memory=99 * MIB)], {"memory": 2 * MIB}, "User 1000 has 1038"),
        ([Used("a", BOB, memory=99 * MIB)], {"memory": 52 * MIB}, "There are 1038"),
    ],
)
def test_there_is_no_room(vms: list[Used], more: dict[str, int], sentence: str) -> None:
    with pytest.raises(LimitExceededError, match=rf"^{sentence}.* the limit of \d+"):
        check(*vms, **more)


def test_a_vm_that_has_ended_uses_neither_vcpus_nor_memory() -> None:
    ended = Used("a", ANN, cpus=4, memory=100 * MIB)
    ended.status = Status("stopped")

    check(ended, cpus=4, memory=100 * MIB)


def write(folder: Path, text: str) -> Path:
    path = folder / "chdebugd.conf"
    path.write_text(text)
    return path


def test_no_file_means_the_defaults_of_this_host(tmp_path: Path) -> None:
    limits = load_limits(tmp_path / "nowhere")

    assert limits.vms == Limits().vms
    assert limits.memory_per_vm == host_memory()
    assert limits.memory_total == limits.memory_per_user == OVERCOMMIT * host_memory()


def test_a_file_changes_what_it_names(tmp_path: Path) -> None:
    limits = load_limits(write(tmp_path, "[limits]\nvms = 7\nvcpus-per-user = 9\n"))

    assert (limits.vms, limits.vcpus_per_user) == (7, 9)
    assert limits.vcpus_per_vm == Limits().vcpus_per_vm
    assert limits.to_dict()["vcpus-per-user"] == 9


def test_the_shipped_file_names_every_limit_with_its_default(tmp_path: Path) -> None:
    shipped = (Path(__file__).parents[2] / "packaging" / "chdebugd.conf").read_text()
    settings = [line[1:] for line in shipped.splitlines() if line.startswith("#") and " = " in line]

    limits = load_limits(write(tmp_path, "\n".join(["[limits]", *settings])))

    assert limits == load_limits(tmp_path / "nowhere") == load_limits(write(tmp_path, shipped))
    assert {each.split(" = ")[0] for each in settings} == Limits().to_dict().keys()


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[limits\n", "Cannot read"),
        ("[limits]\ncolour = 1\n", "'colour' is unknown"),
        ("[limits]\nvms = -1\n", "'vms' must be"),
        ("[limits]\nvms = '7'\n", "'vms' must be"),
        ("[limits]\nvms = true\n", "'vms' must be"),
        ("limits = 3\n", "must be a table"),
    ],
)
def test_a_wrong_file_is_told(tmp_path: Path, text: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        load_limits(write(tmp_path, text))
