"""`export`: what Perfetto and OpenTelemetry collectors are given keeps to their formats."""

from __future__ import annotations

import base64
import json
import time
from collections import defaultdict
from itertools import pairwise
from typing import Any

import pytest
from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

from chdebugd.ctl.boots import Boot
from chdebugd.ctl.chrome_trace import chrome_trace
from chdebugd.ctl.otlp import otlp
from tests.ctl.boots import MS, boot
from tests.ctl.conftest import Ctl

BOOTS = [
    boot((0, 5), (0x40, 10), (0x41, 30), code_map="cloud-hypervisor", requested_nsec=-20 * MS),
    boot((0x40, 10), vm="other", number=2, result="triple-fault", sentence="Triple fault"),
]
BOOT_IDS = {each.boot_id for each in BOOTS}


def of_kind(trace: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [event for event in trace["traceEvents"] if event["ph"] == kind]


# Chrome


def test_chrome_slices_are_on_the_hosts_monotonic_clock() -> None:
    trace = chrome_trace(BOOTS)

    assert trace["otherData"]["clock"] == "CLOCK_MONOTONIC"
    [kernel] = [each for each in of_kind(trace, "X") if each["name"] == "0x40..0x41"]
    assert kernel["ts"] == (10**12 + 10 * MS) / 1000
    assert kernel["dur"] == 20_000
    [request] = [each for each in of_kind(trace, "X") if each["name"] == "request..start"]
    assert request["ts"] == (10**12 - 20 * MS) / 1000


def test_chrome_slices_of_a_thread_do_not_overlap() -> None:
    threads = defaultdict(list)
    for event in of_kind(chrome_trace(BOOTS), "X"):
        threads[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))

    assert len(threads) == 5  # stages and steps of each, and a span
    for slices in threads.values():
        assert all(end <= begin for (_, end), (begin, _) in pairwise(sorted(slices)))


def test_chrome_marks_are_instants_with_their_code() -> None:
    marks = of_kind(chrome_trace(BOOTS), "i")

    assert [mark["args"]["code"] for mark in marks] == [0, 0x40, 0x41, 0x40]
    assert all(mark["s"] == "t" for mark in marks)


def test_chrome_processes_and_threads_have_names() -> None:
    trace = chrome_trace(BOOTS)

    used = {(each["pid"], each["tid"]) for each in trace["traceEvents"] if each["ph"] in "Xi"}
    named = {(each["pid"], each["tid"]) for each in of_kind(trace, "M")}
    assert used <= named
    processes = [each["args"]["name"] for each in of_kind(trace, "M") if each["tid"] == 0]
    assert processes == ["VM vm", "VM other"]


# OTLP


def request_of(document: dict[str, Any]) -> Any:
    """The message, as the schema's own parser takes it; OTLP/JSON has its ids in hexadecimal."""

    def ids_to_base64(value: Any) -> Any:
        if isinstance(value, list):
            return [ids_to_base64(each) for each in value]
        if isinstance(value, dict):
            return {
                key: base64.b64encode(bytes.fromhex(each)).decode()
                if key in ("traceId", "spanId", "parentSpanId")
                else ids_to_base64(each)
                for key, each in value.items()
            }
        return value

    message = trace_service_pb2.ExportTraceServiceRequest()
    return json_format.ParseDict(ids_to_base64(document), message)


def spans_of(boots: list[Boot]) -> list[Any]:
    message = request_of(json.loads(json.dumps(otlp(boots, "host"))))
    return list(message.resource_spans[0].scope_spans[0].spans)


def test_otlp_is_what_the_schema_takes() -> None:
    spans = spans_of(BOOTS)

    assert {span.trace_id.hex() for span in spans} == BOOT_IDS
    assert all(len(span.span_id) == 8 and any(span.span_id) for span in spans)
    assert len({span.span_id for span in spans}) == len(spans)
    assert all(span.start_time_unix_nano <= span.end_time_unix_nano for span in spans)
    assert {span.kind for span in spans} == {1}


def test_otlp_spans_lie_within_their_parents() -> None:
    spans = {span.span_id: span for span in spans_of(BOOTS)}

    roots = [span for span in spans.values() if not span.parent_span_id]
    assert [span.name for span in roots] == ["boot vm", "boot other"]
    for span in spans.values():
        if span.parent_span_id:
            parent = spans[span.parent_span_id]
            assert parent.trace_id == span.trace_id
            assert parent.start_time_unix_nano <= span.start_time_unix_nano
            assert span.end_time_unix_nano <= parent.end_time_unix_nano


def test_otlp_times_are_on_the_real_clock_and_marks_are_events() -> None:
    root = spans_of(BOOTS)[0]

    start = BOOTS[0].realtime_nsec
    assert root.start_time_unix_nano == start - 20 * MS
    assert root.end_time_unix_nano == start + 30 * MS
    assert [event.name for event in root.events] == ["0x0", "0x40", "0x41"]
    assert root.events[1].time_unix_nano == start + 10 * MS
    codes = [a.value.int_value for e in root.events for a in e.attributes if a.key == "code"]
    assert codes == [0, 0x40, 0x41]


def test_otlp_tells_of_a_failure() -> None:
    good, bad = (span for span in spans_of(BOOTS) if not span.parent_span_id)

    assert (good.status.code, bad.status.code) == (0, 2)
    assert bad.status.message == "Triple fault"


def test_otlp_ids_are_the_same_each_time() -> None:
    assert otlp(BOOTS, "host") == otlp(BOOTS, "host")


@pytest.mark.kvm
@pytest.mark.dbus
def test_a_real_boot_is_exported_in_all_formats(ctl: Ctl) -> None:
    ctl.run("boot", "--name=x", "--map=demo")

    chrome = json.loads(ctl.run("export", "x").stdout)
    spans = request_of(json.loads(ctl.run("export", "--format=otlp", "x").stdout))
    ctl.run("export", "--format=runs", "-o", "x.json", "x")

    marks = of_kind(chrome, "i")
    assert len(marks) == 10
    started = chrome["otherData"]["boots"]
    assert started == [ctl.json("time", "x.json")["boot"]]
    names = [span.name for span in spans.resource_spans[0].scope_spans[0].spans]
    assert names[0] == "boot x"
    assert "Kernel" in names
    assert ctl.json("events", "x.json") == ctl.json("events", "x")


@pytest.mark.kvm
@pytest.mark.dbus
def test_the_clocks_of_a_real_boot_agree(ctl: Ctl) -> None:
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC), time.time_ns()
    ctl.run("boot", "--name=c")
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC), time.time_ns()
    ctl.run("export", "--format=runs", "-o", "c.json", "c")

    [found] = json.loads((ctl.directory / "c.json").read_text())["boots"]

    assert before[0] < found["start_nsec"] < after[0]
    assert before[1] < found["realtime_nsec"] < after[1]
    assert found["requested_nsec"] < 0
