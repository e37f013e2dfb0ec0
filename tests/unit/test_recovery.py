"""How the daemon shares its time among what many dead processes left."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

from chdebugd.options import VmOptions
from chdebugd.recovery import Recovery
from chdebugd.remains import Remains
from chdebugd.trace.journal_sink import ENTRIES_BATCH
from chdebugd.trace.ring import Reader, Ring
from chdebugd.vm import VM, Listener

MANY, BATCHES = 4, 40


def died_with(count: int, name: str) -> Remains:
    ring = Ring.create()
    ring.start_boot(1, 1)
    for _ in range(count):
        assert ring.write(0x40)
    vm = VM(name, VmOptions.empty(), cast(Listener, None), 0)
    vm.signals.attach(ring)
    remains = Remains(vm)
    vm.close()
    return remains


def test_one_batch_is_written_in_a_turn_of_the_loop(tmp_path: Path) -> None:
    """However many processes died at once: callers must be answered between."""

    async def recover_all() -> int:
        turns = 0

        def count_turn() -> None:
            nonlocal turns
            turns += 1
            loop.call_soon(count_turn)

        loop = asyncio.get_running_loop()
        recovery = Recovery(str(tmp_path / "no journald"))
        left = [died_with(BATCHES * ENTRIES_BATCH, f"vm{number}") for number in range(MANY)]
        count_turn()
        await asyncio.gather(*(recovery.recover(each, None) for each in left))
        for each in left:
            assert each.ring is not None
            assert each.ring.position(Reader.JOURNAL) == BATCHES * ENTRIES_BATCH
            each.close()
        return turns

    assert asyncio.run(recover_all()) >= MANY * BATCHES
