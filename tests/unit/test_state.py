"""The life of a VM as a table: every state can be left and reached, and none by a shortcut."""

from __future__ import annotations

import pytest

from chdebugd.state import ENDED, NEXT, State, check_step


@pytest.mark.parametrize("old", State)
@pytest.mark.parametrize("new", State)
def test_a_step_is_in_the_table_or_an_error(old: State, new: State) -> None:
    if new in NEXT[old]:
        assert check_step(old, new) is new
    else:
        with pytest.raises(AssertionError, match=f"from {old} to {new}"):
            check_step(old, new)


def test_every_state_but_the_first_can_be_reached_from_any() -> None:
    for start in State:
        reached: set[State] = set()
        ahead = [start]
        while ahead:
            state = ahead.pop()
            new = NEXT[state] - reached
            reached |= new
            ahead.extend(new)
        assert reached == set(State) - {State.CREATED}


def test_from_an_end_there_is_but_one_way() -> None:
    assert all(NEXT[state] == {State.STARTING} for state in ENDED)


def test_whatever_runs_may_fail() -> None:
    assert all(State.FAILED in NEXT[state] for state in State if state not in ENDED)
