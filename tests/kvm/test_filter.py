"""The seccomp filter of a vCPU thread: what a guest that broke out could still do."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from chdebugd.vmm.kvm import EXIT_FORBIDDEN

pytestmark = pytest.mark.kvm
TIMEOUT = 60

# By their numbers on x86-64 (arch/x86/entry/syscalls/syscall_64.tbl).
FORBIDDEN = {
    "open": 257,  # openat
    "socket": 41,
    "execve": 59,
    "fork": 56,  # clone
    "kill": 62,
    "prctl": 157,
    "executable memory": 9,  # mmap
}


def run_guest(call: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.kvm.confined_guest", call]
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="numbers of x86-64")
@pytest.mark.parametrize("call", FORBIDDEN)
def test_a_call_that_no_vcpu_needs_ends_the_process(call: str) -> None:
    ended = run_guest(call)

    assert ended.returncode == EXIT_FORBIDDEN
    assert f"a guest's thread was ended at system call {FORBIDDEN[call]}," in ended.stderr
    assert ended.stdout == ""


@pytest.mark.parametrize("call", ["nothing", "ioctl"])
def test_the_same_guest_runs_to_its_end_without_such_a_call(call: str) -> None:
    """Any ioctl: looking into its arguments would cost each exit of the guest (filter.h)."""
    ended = run_guest(call)

    assert (ended.returncode, ended.stderr) == (0, "")
    assert "SHUTDOWN" in ended.stdout


ALONE = """
import os, resource, signal, sys, threading
from chdebugd.vmm.kvm import confine_process

other, seen = int(sys.argv[1]), []
signal.signal(signal.SIGUSR1, lambda *_: seen.append("own"))
confine_process()
resource.getrlimit(resource.RLIMIT_NOFILE)
signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
for call in (
    lambda: os.kill(other, signal.SIGKILL),
    lambda: os.pidfd_open(other),
    lambda: resource.prlimit(other, resource.RLIMIT_CPU, (1, 1)),
):
    try:
        call()
    except PermissionError:
        seen.append("refused")
print(*seen)
"""


def test_a_process_that_is_confined_reaches_no_other() -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        words = [sys.executable, "-c", ALONE, str(other.pid)]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        assert other.poll() is None
        other.kill()

    assert done.stdout == "own refused refused refused\n"
