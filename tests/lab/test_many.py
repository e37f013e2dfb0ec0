"""Fifty small guests at once, on a machine of two processors."""

from __future__ import annotations

from tests.guests import SLEEP, mark, rom
from tests.lab.guest import IMAGES, SERVICE
from tests.lab.outer import OuterMachine

N_GUESTS = 50
FIRST_CODE = 0x80
START = f"""
for i in $(seq 0 {N_GUESTS - 1}); do
    busctl call {SERVICE} /org/chdebugd1 org.chdebugd1.Manager StartVM 'sa{{sv}}' \\
        small$i 2 firmware s {IMAGES}/small$i.rom memory t 16777216 > /dev/null || exit 1
done
"""
STATES = f"""
for i in $(seq 0 {N_GUESTS - 1}); do
    busctl get-property {SERVICE} /org/chdebugd1/vm/small$i org.chdebugd1.VM State
done | sort | uniq -c
"""
MARKS = (
    "journalctl -t chdebugd --output-fields=VM,CODE -o cat -g 'Custom code' | paste - - | sort -u"
)
END = f"""
for i in $(seq 0 {N_GUESTS - 1}); do
    busctl call {SERVICE} /org/chdebugd1/vm/small$i org.chdebugd1.VM Kill
    busctl call {SERVICE} /org/chdebugd1/vm/small$i org.chdebugd1.VM Remove
done
"""


def test_each_of_fifty_guests_makes_its_mark(outer: OuterMachine) -> None:
    for index in range(N_GUESTS):
        outer.put(f"{IMAGES}/small{index}.rom", rom(mark(FIRST_CODE + index) + SLEEP))

    outer.run(START, timeout=600)

    assert outer.run(STATES, timeout=300).split() == [str(N_GUESTS), "s", '"running"']
    marks = {tuple(sorted(line.split())) for line in outer.run(MARKS).splitlines()}
    mine = {(f"{FIRST_CODE + index:#x}", f"small{index}") for index in range(N_GUESTS)}
    assert mine <= marks
    outer.run(END, timeout=600)
