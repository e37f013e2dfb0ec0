"""Questions to the journal where the host has too little of something."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from chdebugd import journal_questions
from chdebugd.journal_questions import ask


def test_a_question_that_found_no_thread_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool keeps what it could not begin, and would ask it again with the next."""
    asked: list[int] = []
    failures = iter(range(3))
    start = threading.Thread.start

    def start_later(thread: threading.Thread) -> None:
        if next(failures, None) is not None:
            raise RuntimeError("can't start new thread")
        start(thread)

    def question() -> str:
        asked.append(1)
        return "answer"

    with ThreadPoolExecutor(1) as pool:
        monkeypatch.setattr(journal_questions, "_threads", pool)
        monkeypatch.setattr(threading.Thread, "start", start_later)
        assert asyncio.run(ask(question)) == "answer"

    assert next(failures, None) is None
    assert asked == [1]
