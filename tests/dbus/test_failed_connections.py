"""A daemon looks for its bus for as long as it takes, and keeps nothing of the looks in vain."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from chdebugd.bus_dbus import Bus
from tests.dbus.conftest import TIMEOUT

pytestmark = pytest.mark.dbus
TRIES = 30
OK = b"OK 0123456789abcdef0123456789abcdef\r\n"  # D-Bus specification, authentication protocol

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def hang_up(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
    """At once."""


async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """As a broker does that does not know the user."""
    await reader.readline()
    writer.write(b"REJECTED\r\n")
    await reader.read()


async def hang_up_at_hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """As a broker does that is killed just then."""
    await reader.readline()
    writer.write(OK)
    await reader.readline()
    writer.write(b"AGREE_UNIX_FD\r\n")
    await reader.readuntil(b"Hello")


async def look(path: Path) -> None:
    bus = Bus(f"unix:path={path}")
    await bus.connect()


async def look_in_vain(path: Path) -> None:
    for _ in range(TRIES):
        with pytest.raises(Exception):  # noqa: B017, PT011 - dbus-next's errors have no common name
            await look(path)


@contextlib.asynccontextmanager
async def listening(path: Path, answer: Answer) -> AsyncIterator[None]:
    """Somebody at `path` who answers and hangs up."""
    talks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talks.add(asyncio.create_task(serve(reader, writer)))

    server = await asyncio.start_unix_server(accept, path)
    async with server:
        yield
        async with asyncio.timeout(TIMEOUT):
            await asyncio.gather(*talks)


@contextlib.contextmanager
def nothing_is_kept() -> Iterator[None]:
    """No descriptor may stay, as long as nobody collects garbage either."""
    gc.collect()
    gc.disable()
    before = len(os.listdir("/proc/self/fd"))
    try:
        yield
        assert len(os.listdir("/proc/self/fd")) == before
    finally:
        gc.enable()


def run(step: Coroutine[Any, Any, None]) -> None:
    with nothing_is_kept():
        asyncio.run(step)


def test_where_nothing_listens(tmp_path: Path) -> None:
    run(look_in_vain(tmp_path / "bus"))


@pytest.mark.parametrize("answer", [hang_up, refuse, hang_up_at_hello])
def test_where_somebody_hangs_up(tmp_path: Path, answer: Answer) -> None:
    async def look_at_it() -> None:
        async with listening(tmp_path / "bus", answer):
            await look_in_vain(tmp_path / "bus")

    run(look_at_it())


def test_where_nobody_answers_and_the_daemon_is_told_to_stop(tmp_path: Path) -> None:
    asked = asyncio.Event()

    async def be_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await hang_up_at_hello(reader, writer)
        asked.set()
        await reader.read()

    async def look_and_give_up() -> None:
        async with listening(tmp_path / "bus", be_silent):
            for _ in range(TRIES):
                asked.clear()
                looking = asyncio.create_task(look(tmp_path / "bus"))
                await asked.wait()
                looking.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await looking

    run(look_and_give_up())
