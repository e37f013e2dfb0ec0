"""Questions to the journal, off the event loop: their answers wait for files and for journald.

On threads of their own: while journald stands still, the others must be there for callers.
"""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Generic, ParamSpec, TypeVar

from chdebugd.trace.journal_reader import wait_for_takeover

P = ParamSpec("P")
T = TypeVar("T")

THREADS = 2
STEP = 1.0  # seconds that one question waits: so long it may hold up the end of the daemon
RETRY = 0.1  # seconds until the host is asked again for what it lacks
SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN)
_threads = ThreadPoolExecutor(THREADS, "journal")


async def ask(question: Callable[P, T], *given: P.args, **named: P.kwargs) -> T:
    """The answer, as soon as the host has the descriptors and the thread for it."""
    return await ask_with(lambda: partial(question, *given, **named))


async def ask_with(prepare: Callable[[], Callable[[], T]]) -> T:
    """The same; `prepare` opens, for each try anew, what the question takes along and closes."""
    while True:
        question = await when_there_is_room(prepare)
        future = await when_there_is_room(partial(_begin, question))
        try:
            return await future
        except OSError as error:
            _pass_shortage(error)
        await asyncio.sleep(RETRY)


async def when_there_is_room(make: Callable[[], T]) -> T:
    """What `make` returns, once it fails no more for want of descriptors, threads or memory."""
    while True:
        try:
            return make()
        except OSError as error:
            _pass_shortage(error)
        await asyncio.sleep(RETRY)


async def has_stored(takeover_id: str, within: float) -> bool:
    """Whether the journal has the entry with this TAKEOVER_ID after so many seconds at most.

    It is asked once in any case: others may ask as well, and their questions take their time.
    """
    deadline = time.monotonic() + within
    while not await ask(wait_for_takeover, takeover_id, STEP):
        if time.monotonic() >= deadline:
            return False
    return True


class _Question(Generic[T]):
    """The pool keeps what it was given even where it has no thread for it, and may ask it later."""

    def __init__(self, question: Callable[[], T]) -> None:
        self._question = question
        self.is_withdrawn = False

    def __call__(self) -> T:
        if self.is_withdrawn:
            raise OSError(errno.ECANCELED, "Nobody waits for the answer")
        return self._question()


def _begin(question: Callable[[], T]) -> asyncio.Future[T]:
    asked = _Question(question)
    try:
        return asyncio.get_running_loop().run_in_executor(_threads, asked)
    except RuntimeError:
        asked.is_withdrawn = True
        raise OSError(errno.EAGAIN, "The host has no thread left") from None


def _pass_shortage(error: OSError) -> None:
    if error.errno not in SHORTAGES:
        raise error
