"""What the journal answers, where somebody else has written into it."""

from __future__ import annotations

from typing import Any

from chdebugd.trace.journal_reader import JournalledMark, _dropped, _in_turn

BOOT = "0123456789abcdef0123456789abcdef"
BROKEN: list[dict[str, Any]] = [
    {"SEQ": "1"},
    {"VM_BOOT": BOOT},
    {"VM_BOOT": "no boot", "SEQ": "1"},
    {"VM_BOOT": [BOOT, BOOT], "SEQ": "1"},
    {"VM_BOOT": BOOT, "SEQ": "one"},
    {"VM_BOOT": BOOT, "SEQ": ["1", "2"]},
]


def test_broken_marks_and_those_sent_again_are_passed_over() -> None:
    sent_again = {"VM_BOOT": BOOT, "SEQ": "7", "RESENT": "1"}
    entries = iter([*BROKEN, sent_again, {"VM_BOOT": BOOT, "SEQ": "3"}])

    assert _in_turn(lambda: next(entries, {})) == JournalledMark(BOOT, 3)


def test_where_all_is_broken_there_is_no_mark() -> None:
    entries = iter(BROKEN)

    assert _in_turn(lambda: next(entries, {})) is None


def test_broken_counts_are_none() -> None:
    told = [{"VM_BOOT": BOOT, "DROPPED": "5"}, *BROKEN, {"VM_BOOT": BOOT, "DROPPED": "many"}]

    assert [_dropped(entry, {BOOT}) for entry in told] == [5, *[0] * (len(told) - 1)]
