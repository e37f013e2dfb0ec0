"""Text of a guest on its way to the journal."""

from __future__ import annotations

import time

import pytest

from chdebugd.text_output import LINE_LIMIT, LINES_A_SECOND, JournalText


class Journal:
    """What was posted."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.suppressed: list[int] = []
        self.text = JournalText(self.lines.append, self.suppressed.append)


def test_lines_come_whole_and_long_ones_are_cut() -> None:
    journal = Journal()
    for part in (b"one\r\n", b"tw", b"o\n\n", b"x" * (LINE_LIMIT + 1), b"\xff"):
        journal.text(part)
    journal.text.close()

    assert journal.lines == ["one", "two", "x" * LINE_LIMIT, "x\\xff"]
    assert journal.suppressed == []


def test_a_flood_is_cut_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [7.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    journal = Journal()
    for _ in range(LINES_A_SECOND + 5):
        journal.text(b"a\n")
    now[0] += 1
    journal.text(b"b\n")

    assert len(journal.lines) == LINES_A_SECOND + 1
    assert journal.suppressed == [5]


def test_what_was_left_out_last_is_told_at_the_end() -> None:
    journal = Journal()
    for _ in range(20 * LINES_A_SECOND):
        journal.text(b"a\n")
    journal.text.close()

    assert len(journal.lines) + sum(journal.suppressed) == 20 * LINES_A_SECOND
    assert sum(journal.suppressed) > 0
