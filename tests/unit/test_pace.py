"""Which marks a reader takes at once and which it lets pass first."""

from __future__ import annotations

from chdebugd.trace.pace import BURST, FULL, HOLD_LIMIT, LOOK, Pace

A_BURST = int(2 * BURST * LOOK)  # marks between two looks


def test_the_first_mark_after_a_pause_is_taken_at_once() -> None:
    assert not Pace().holds(1000.0, 1, 0)


def test_sparse_marks_are_taken_at_once() -> None:
    pace = Pace()

    assert not any(pace.holds(at * LOOK, at, at - 1) for at in range(1, 1000))


def test_a_burst_is_held_until_it_pauses() -> None:
    pace = Pace()
    pace.holds(0.0, 1, 0)

    held = [pace.holds(at * LOOK, at * A_BURST, 1) for at in range(1, 11)]

    assert all(held)
    assert not pace.holds(11 * LOOK, 10 * A_BURST, 1)
    assert not pace.is_burst


def test_a_burst_that_fills_the_ring_is_taken() -> None:
    pace = Pace()
    pace.holds(0.0, 1, 0)

    assert not pace.holds(LOOK, FULL, 0)
    assert pace.is_burst


def test_a_burst_without_an_end_is_taken_once_a_second() -> None:
    pace = Pace()
    pace.holds(0.0, 1, 0)
    looks = int(3.5 * HOLD_LIMIT / LOOK)

    taken = [not pace.holds(at * LOOK, at * A_BURST, (at - 1) * A_BURST) for at in range(1, looks)]

    assert sum(taken) == 3


def test_looks_in_quick_succession_do_not_make_a_burst() -> None:
    pace = Pace()

    assert not any(pace.holds(at * LOOK / 1000, at // 100, 0) for at in range(1, 1000))
