"""How long a row waits for what it needs; where that does not come, an error names it."""

from __future__ import annotations

import asyncio
import select
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import IO

SECONDS = 300.0


def gave_up(what: str) -> TimeoutError:
    """The error for `what`, a sentence without its end: "The end of VM 'x'"."""
    return TimeoutError(
        f"{what} did not come within {SECONDS:g} s; run the row again with more of the CPU"
    )


@asynccontextmanager
async def awaiting(what: str) -> AsyncIterator[None]:
    """Let the body take that long. Raises TimeoutError."""
    limit = asyncio.timeout(SECONDS)
    try:
        async with limit:
            yield
    except TimeoutError:
        if limit.expired():
            raise gave_up(what) from None
        raise


@contextmanager
def running(what: str) -> Iterator[None]:
    """For a body that gives a subprocess `SECONDS` to end. Raises TimeoutError."""
    try:
        yield
    except subprocess.TimeoutExpired:
        raise gave_up(what) from None


def await_output(pipe: IO[bytes], what: str) -> None:
    """Until there is something to read, or the writer is gone. Raises TimeoutError."""
    if not select.select([pipe], [], [], SECONDS)[0]:
        raise gave_up(what)
