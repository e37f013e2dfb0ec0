"""Boots as OpenTelemetry spans (OTLP/JSON): a trace a boot, whose id is the boot's own.

The root span is the boot, from the request on; below it are the stages, and below them the steps.
Marks are events of the root span. In OTLP/JSON ids are hexadecimal, enums are numbers, and 64-bit
integers are strings (OTLP specification, JSON Protobuf encoding).
"""

from __future__ import annotations

import hashlib
from typing import Any

from chdebugd import __version__
from chdebugd.ctl.boots import Boot
from chdebugd.ctl.steps import Point, points_of, steps_of

INTERNAL = 1  # SpanKind
ERROR = 2  # StatusCode
GOOD_ENDS = frozenset({"", "shutdown", "halted", "stopped", "killed", "reset"})

Json = dict[str, Any]


def otlp(boots: list[Boot], host: str) -> Json:
    """What a collector's /v1/traces takes (ExportTraceServiceRequest)."""
    resource = {"service.name": "chdebugd", "service.version": __version__, "host.name": host}
    scope = {"name": "chdebugctl", "version": __version__}
    spans = [span for boot in boots for span in _boot(boot)]
    return {
        "resourceSpans": [
            {
                "resource": {"attributes": _attributes(resource)},
                "scopeSpans": [{"scope": scope, "spans": spans}],
            }
        ]
    }


def _boot(boot: Boot) -> list[Json]:
    points = points_of(boot)
    root = _span(boot, f"boot {boot.vm}", "", points[0], points[-1])
    root["attributes"] = _attributes(_about(boot))
    root["events"] = [
        {
            "timeUnixNano": str(boot.realtime_nsec + mark.elapsed_nsec),
            "name": mark.label,
            "attributes": _attributes(
                {"code": mark.code, "component": mark.stage, "seq": mark.seq, "vcpu": mark.vcpu}
            ),
        }
        for mark in boot.marks
    ]
    if boot.result not in GOOD_ENDS:
        root["status"] = {"code": ERROR, "message": boot.sentence or boot.result}
    return [root, *_stages(boot, points, root["spanId"])]


def _about(boot: Boot) -> Json:
    known = {
        "vm.name": boot.vm,
        "vm.boot.id": boot.boot_id,
        "vm.cpus": boot.cpus,
        "vm.memory": boot.memory,
        "vm.result": boot.result,
        "vm.code_map": boot.code_map,
        "vm.marks.missing": boot.missing,
    }
    return {key: value for key, value in known.items() if value}


def _stages(boot: Boot, points: list[Point], root: str) -> list[Json]:
    """A span a stretch of a stage, and below it one a step."""
    spans: list[Json] = []
    stage: Json = {}
    for step in steps_of(points):
        if stage.get("name") != step.stage:
            stage = _span(boot, step.stage, root, step.begin, step.end)
            spans.append(stage)
        stage["endTimeUnixNano"] = _time(boot, step.end)
        spans.append(_span(boot, step.key, stage["spanId"], step.begin, step.end))
    return spans


def _span(boot: Boot, name: str, parent: str, begin: Point, end: Point) -> Json:
    parent_id = {"parentSpanId": parent} if parent else {}
    return {
        "traceId": boot.boot_id,
        "spanId": _span_id(boot, f"{parent} {name} {begin.key}"),
        **parent_id,
        "name": name,
        "kind": INTERNAL,
        "startTimeUnixNano": _time(boot, begin),
        "endTimeUnixNano": _time(boot, end),
    }


def _span_id(boot: Boot, what: str) -> str:
    """The same each time the boot is exported, so that a collector sees no new spans."""
    return hashlib.sha256(f"{boot.boot_id} {what}".encode()).hexdigest()[:16]


def _time(boot: Boot, point: Point) -> str:
    return str(boot.realtime_nsec + point.nsec)


def _attributes(values: Json) -> list[Json]:
    return [{"key": key, "value": _value(value)} for key, value in values.items()]


def _value(value: object) -> Json:
    return {"intValue": str(value)} if isinstance(value, int) else {"stringValue": str(value)}
