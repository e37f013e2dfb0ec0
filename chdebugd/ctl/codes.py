"""`codes`: the code maps there are, or what is in one."""

from __future__ import annotations

import argparse
from typing import Any

from chdebugd.ctl.arguments import Verbs, output_of
from chdebugd.ctl.errors import CtlError, ExitStatus
from chdebugd.ctl.output import Output, Table
from chdebugd.trace.codemap import CodeMap, CodeMapError, find_map, map_names
from chdebugd.trace.event import COMPONENT_OF


def add(verbs: Verbs) -> None:
    """Add it."""
    parser = verbs.add("codes", "list the code maps, or the codes of one", _run)
    parser.add_argument("map", metavar="MAP", nargs="?")


def _run(given: argparse.Namespace) -> int:
    output = output_of(given)
    return _show(output, given.map) if given.map else _list(output)


def _list(output: Output) -> int:
    """All maps; a bad one is listed with what is wrong, and the exit status tells."""
    found = [_look_at(name) for name in map_names()]
    if output.is_json:
        output.print_json(found)
    else:
        table = Table(["MAP", "CODES", "SPANS", "TITLE", "FILE"], frozenset({"CODES", "SPANS"}))
        for each in found:
            counts = each.get("codes", "-"), each.get("spans", "-")
            table.add(each["map"], *counts, each.get("title", "BAD"), each["file"])
        with output.paged() as file:
            table.print(file)
            for each in found:
                if "error" in each:
                    print(each["error"], file=file)
    return ExitStatus.FAILED if any("error" in each for each in found) else ExitStatus.OK


def _look_at(name: str) -> dict[str, Any]:
    path = find_map(name)
    try:
        codes = CodeMap.read(path)
    except CodeMapError as error:
        return {"map": name, "file": str(path), "error": str(error)}
    counts = {"codes": len(codes.names), "spans": len(codes.spans)}
    return {"map": name, "file": str(path), "title": codes.title, "source": codes.source} | counts


def _show(output: Output, name: str) -> int:
    try:
        codes = CodeMap.load(name)
    except CodeMapError as error:
        raise CtlError(f"{error}; chdebugctl codes lists those there are") from None
    rows = [
        (code, codes.stage(code) or COMPONENT_OF[code], codes.names[code]) for code in codes.names
    ]
    if output.is_json:
        output.print_json([{"code": c, "stage": stage, "name": n} for c, stage, n in rows])
        return ExitStatus.OK
    table = Table(["CODE", "STAGE", "NAME"])
    for code, stage, text in rows:
        table.add(f"{code:#04x}", stage, text)
    with output.paged() as file:
        print(f"{codes.title}, from {codes.source}\n" if codes.source else codes.title, file=file)
        table.print(file)
        for span in codes.spans:
            print(f"span {span.name}: {span.start:#04x} to {span.end:#04x}", file=file)
    return ExitStatus.OK
