"""What a mark costs a guest whose process is in its unit, under all that guards the host there."""

from __future__ import annotations

from container.container import Container

from tests.bench import peer
from tests.bench.installed import installed
from tests.bench.marks import BURST, figures, names
from tests.bench.report import Figure
from tests.bench.stage import stamps
from tests.guests import SHUTDOWN, burst, rom
from tests.system.conftest import call_vm, wait_for

INSIDE = "/guest.rom"


async def mark_unit(repeat: int) -> list[Figure]:
    """Bursts up to the ring's size, journal and log file on."""
    guest = rom(burst(BURST) + SHUTDOWN)
    image = peer.rom_file(guest, "burst")
    ours, theirs = [], []
    with installed() as container:
        container.put(INSIDE, guest)
        for _ in range(repeat):
            theirs.append(peer.deltas(peer.bare_loop(image, BURST)))
            ours.append(_deltas(container, next(names)))
    return figures("mark-unit", ours, theirs, (1.03, 1.10))


def _deltas(container: Container, name: str) -> list[int]:
    log = f"{name}.log"
    options = ("firmware", "s", INSIDE), ("memory", "t", str(1 << 20)), ("log-file", "s", log)
    container.start_vm(name, *options)
    socket = f"/run/chdebugd/vm/{name}/sock"  # it goes when all is written
    wait_for(lambda: container.run("test", "-e", socket, check=False).returncode != 0)
    noted = stamps(container.get(f"/var/log/chdebugd/{log}").decode())
    call_vm(container, name, "Remove")
    assert len(noted) == BURST
    return peer.deltas(noted)
