"""Prints marks as they come: a line each, or a JSON object each."""

from __future__ import annotations

import os
import sys
from typing import Any

from chdebugd.ctl.output import STYLES, Output, milliseconds
from chdebugd.trace.event import seconds

ANSI = {"blue": 34, "yellow": 33, "magenta": 35, "cyan": 36, "green": 32, "red": 31}


class MarkPrinter:
    """Lines for people go to stdout, or to stderr where a guest's console has stdout."""

    def __init__(
        self,
        output: Output,
        *,
        to_stderr: bool = False,
        with_vm: bool = False,
        silent: bool = False,
    ) -> None:
        """`with_vm` puts the VM's name in front of each line; a `silent` printer prints nothing."""
        self._silent = silent
        self._output = output
        self._file = sys.stderr if to_stderr else sys.stdout
        self._with_vm = with_vm
        self._before: dict[str, int] = {}

    def mark(self, vm: str, event: list[Any]) -> None:
        """One event as signalled: seq, elapsed_nsec, code, component, details."""
        if self._silent:
            return
        seq, nsec, code, component, details = event
        if self._output.is_json:
            known = {"vm": vm, "seq": seq, "elapsed_nsec": nsec, "code": code}
            self._output.print_json(known | {"component": component, **details})
            return
        head = f"{vm:<16} " if self._with_vm else ""
        if not self._before:
            blank = " " * len(head)
            print(f"{blank}    ELAPSED         DELTA  COMPONENT   CODE NAME", file=self._file)
        before = 0 if seq == 1 else self._before.get(vm, 0)
        self._before[vm] = nsec
        step = f"+{milliseconds(nsec - before)}ms"
        whose = self._coloured(f"{component:<10}", component)
        name = details.get("name", "")
        line = f"{head}{seconds(nsec):>11} {step:>13}  {whose}  {code:#04x} {name}"
        print(line.rstrip(), file=self._file, flush=True)

    def state(self, vm: str, state: str) -> None:
        """A VM has another state."""
        if self._output.is_json:
            self._output.print_json({"vm": vm, "state": state})
        else:
            print(f"{vm:<16} {state}", file=self._file, flush=True)

    def note(self, sentence: str) -> None:
        """What is not a mark; only for people."""
        if not self._output.is_json and not self._silent:
            print(sentence, file=self._file, flush=True)

    def _coloured(self, text: str, component: str) -> str:
        plain = not self._file.isatty() or os.environ.get("NO_COLOR")
        if plain or component not in STYLES:
            return text
        return f"\x1b[{ANSI[STYLES[component]]}m{text}\x1b[0m"
