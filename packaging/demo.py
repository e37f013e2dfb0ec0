#!/usr/bin/python3
"""Shows chdebugd at work: its .deb, a real systemd, two guests, and where their marks are.

All of it happens in a container, also on a host that systemd runs: a demo leaves nothing behind.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from container.container import MANAGER, Container
from container.debian import debian_root
from container.signals import Signals
from container.trouble import ContainerError

PROJECT = Path(__file__).resolve().parents[1]
START_VM = ("busctl", "call", *MANAGER, "StartVM", "sa{sv}")
VM = "/org/chdebugd1/vm/{}"
GUESTS = {
    "demo": "log-file s demo.log code-map s demo",
    "fw0": "firmware s /usr/lib/u-boot/qemu-x86/u-boot.rom log-file s fw0.log code-map s u-boot",
}
QUIET = 8  # seconds without a mark after which U-Boot has no more to say
PATIENCE = 60  # seconds
BOLD, GREY, PLAIN = ("\033[1m", "\033[2m", "\033[0m") if sys.stdout.isatty() else ("", "", "")


def main() -> int:
    """Exit status 0 where every mark is in every place."""
    try:
        return show()
    except (ContainerError, subprocess.CalledProcessError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1


def show() -> int:
    title("Build the package, and boot a Debian for it (this host stays as it is)")
    package = build()
    say(f"{package.name} is built")
    root = debian_root("bookworm", package)
    with Container(root) as debian:
        version = debian.run("systemctl", "--version").stdout.splitlines()[0]
        say(f"Debian 12 is up in a container, {version} is its PID 1")
        typed(f"apt install ./{package.name}")
        said = debian.install(package).splitlines()
        say(*(line for line in said if line.startswith("Setting up chdebugd")))
        return show_guests(debian)


def build() -> Path:
    subprocess.run([PROJECT / "packaging" / "build-deb"], check=True, stdout=subprocess.DEVNULL)
    [package] = (PROJECT / "dist").glob("chdebugd_*.deb")
    return package


def show_guests(debian: Container) -> int:
    title("Two guests: the demo guest of chdebugd, and Debian's U-Boot")
    command(debian, "systemctl start chdebugd")
    with Signals(debian) as signals:
        for name, options in GUESTS.items():
            words = options.split()
            command(debian, shlex.join([*START_VM, name, str(len(words) // 3), *words]))
        command(debian, "systemctl list-units --plain --no-legend 'chdebugd*.service'")
        wait_until_quiet(signals)
        command(debian, f"busctl call org.chdebugd1 {VM.format('fw0')} org.chdebugd1.VM Kill")
    title("Their marks: journal, bus, log file")
    command(debian, "journalctl -t chdebugd VM=demo COMPONENT=Userspace")
    typed("busctl monitor org.chdebugd1")
    say(*(f"DebugEvent {event}" for event in signals.events("fw0")[:3]), "...")
    command(debian, "grep 'Debug I/O port' /var/log/chdebugd/fw0.log")
    title("Each guest's boot, from the journal")
    for name in GUESTS:
        print_table(name, debian.marks(name))
    title("The account: is each mark in each place?")
    return print_account(debian, signals)


def wait_until_quiet(signals: Signals) -> None:
    """Both guests have made marks, and no new one came for QUIET seconds."""
    deadline = time.monotonic() + PATIENCE
    heard, since = 0, time.monotonic()
    while time.monotonic() < min(deadline, since + QUIET) or not all(map(signals.events, GUESTS)):
        if time.monotonic() > deadline:
            raise ContainerError(f"A guest made no mark within {PATIENCE} s")
        if len(signals.heard) != heard:
            heard, since = len(signals.heard), time.monotonic()
        time.sleep(0.05)


def print_table(name: str, marks: Iterable[dict[str, str]]) -> None:
    print(f"  {BOLD}{name:<12}{'elapsed':>12}{'delta':>15}   component   code  name{PLAIN}")
    before = 0
    for mark in marks:
        elapsed, code = int(mark["ELAPSED_NSEC"]), int(mark["CODE"], 16)
        times = f"{ms(elapsed):>12}{'+' + ms(elapsed - before):>15}"
        what = f"{mark['COMPONENT']:<10}  0x{code:02x}  {mark.get('CODE_NAME', '')}"
        print(f"  {'':<12}{times}   {what}".rstrip())
        before = elapsed
    print()


def ms(nsec: int) -> str:
    return f"{nsec / 1e6:.3f} ms"


def print_account(debian: Container, signals: Signals) -> int:
    closed = True
    for name in GUESTS:
        written = get(debian, name, "EventCount")
        counts = {
            "journal entries": len(debian.marks(name)),
            "log lines": len(debian.get(f"/var/log/chdebugd/{name}.log").splitlines()),
            "signals": len(signals.events(name)),
        }
        closed &= set(counts.values()) == {written}
        found = ", ".join(f"{count} {what}" for what, count in counts.items())
        say(f"{name}: {written} marks written = {found}")
    say("The account closes." if closed else "THE ACCOUNT DOES NOT CLOSE.")
    return 0 if closed else 1


def get(debian: Container, vm: str, name: str) -> int:
    words = ("get-property", "org.chdebugd1", VM.format(vm), "org.chdebugd1.VM", name)
    answer = debian.busctl(*words)
    return int(answer.stdout.split()[1])


def command(debian: Container, line: str) -> None:
    """Show a command, run it, show what it says."""
    typed(line)
    say(*debian.run(*shlex.split(line)).stdout.splitlines())


def title(text: str) -> None:
    print(f"\n{BOLD}{text}{PLAIN}\n", flush=True)


def typed(line: str) -> None:
    print(f"  {BOLD}# {line}{PLAIN}", flush=True)


def say(*lines: str) -> None:
    for line in lines:
        print(f"  {GREY}{line}{PLAIN}" if line else "", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
