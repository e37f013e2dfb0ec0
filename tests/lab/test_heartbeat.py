"""The outer machine itself."""

from __future__ import annotations

from tests.lab.outer import OuterMachine

# Of all its processors; where it has one, the name of the controller counts as nothing.
KEYBOARD = "awk '$1 == \"1:\" { print $2 + $3 }' /proc/interrupts"


def test_a_key_interrupts_it_again_and_again(outer: OuterMachine) -> None:
    outer.run(f"n=$({KEYBOARD}); until [ $({KEYBOARD}) -gt $((n + 2)) ]; do sleep 1; done")
