"""How the daemon shares its time among what many dead processes left."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import cast

import pytest

from chdebugd.journal_questions import THREADS, ask
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


def test_a_takeover_may_be_broken_off_amid_a_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As at the end of the daemon: the answer comes when the ring is closed."""
    asked, answer = threading.Event(), threading.Event()
    idle = threading.Barrier(THREADS)

    def last_sequence(_: str) -> int:
        asked.set()
        answer.wait()
        return 1

    async def break_off() -> None:
        remains = died_with(1, "late")
        task = asyncio.create_task(Recovery("").recover(remains, None))
        await asyncio.to_thread(asked.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        remains.close()
        answer.set()
        await asyncio.gather(*(ask(idle.wait) for _ in range(THREADS)))

    monkeypatch.setattr("chdebugd.recovery.SOCKET", str(tmp_path / "no journald"))
    monkeypatch.setattr("chdebugd.recovery.last_sequence", last_sequence)
    asyncio.run(break_off())
