"""Whether one more VM fits into the limits."""

from __future__ import annotations

from collections.abc import Collection

from chdebugd.control import StartRequest
from chdebugd.errors import LimitExceededError, VMExistsError
from chdebugd.limits import Limits
from chdebugd.vm import VM


def check_room(
    limits: Limits, vms: Collection[VM], name: str, owner: int, request: StartRequest
) -> None:
    """Raise VMExistsError or LimitExceededError unless `owner` may start `name` beside `vms`.

    vCPUs and memory of VMs that have ended are free for others.
    """
    if any(vm.name == name for vm in vms):
        raise VMExistsError(f"VM '{name}' exists; remove it, or choose another name")
    theirs = [vm for vm in vms if vm.owner == owner]
    who = f"User {owner} has"
    _check_one(request.cpus, limits.vcpus_per_vm, "vCPUs")
    _check_one(request.memory, limits.memory_per_vm, "bytes of guest memory")
    _check("There are", len(vms), 1, limits.vms, "VMs, remove some")
    _check(who, len(theirs), 1, limits.vms_per_user, "VMs, remove some")
    for subject, some, vcpus, memory in (
        ("There are", vms, limits.vcpus_total, limits.memory_total),
        (who, theirs, limits.vcpus_per_user, limits.memory_per_user),
    ):
        requests = [vm.options.request for vm in some if not vm.has_ended]
        used = sum(each.cpus for each in requests)
        _check(subject, used, request.cpus, vcpus, "vCPUs in use, end some VMs")
        used = sum(each.memory for each in requests)
        _check(subject, used, request.memory, memory, "bytes of guest memory in use, end some VMs")


def _check(subject: str, used: int, more: int, limit: int, what: str) -> None:
    if used + more > limit:
        raise LimitExceededError(
            f"{subject} {used} {what}: {more} more would pass the limit of {limit} "
            "(see chdebugd.conf)"
        )


def _check_one(wanted: int, limit: int, what: str) -> None:
    if wanted > limit:
        raise LimitExceededError(
            f"{wanted} {what} for one VM are more than the limit of {limit} (see chdebugd.conf)"
        )
