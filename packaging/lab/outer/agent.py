#!/usr/bin/python3
"""Runs what the host asks for: one JSON object a line in, one out, over a virtio-serial port."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Any

NEVER_CAME = 124  # as timeout(1) has it


def run(request: dict[str, Any]) -> dict[str, Any]:
    """A shell command, at most `timeout` seconds long; its output and exit code."""
    done = subprocess.run(
        limited(request),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return {"code": done.returncode, "output": done.stdout.decode(errors="replace")}


def follow(request: dict[str, Any]) -> dict[str, Any]:
    """A command whose output is read until a line matches `until`; then it is ended."""
    lines, code = [], NEVER_CAME
    with subprocess.Popen(limited(request), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if re.search(request["until"], line):
                code = 0
                break
        process.terminate()
    return {"code": code, "output": "".join(lines)}


def limited(request: dict[str, Any]) -> list[str]:
    """The command under its time limit."""
    limit = ["timeout", "--kill-after=5", str(request["timeout"])]
    return [*limit, "sh", "-c", request["run"]]


def put(request: dict[str, Any]) -> dict[str, Any]:
    """A file of these bytes."""
    Path(request["put"]).write_bytes(base64.b64decode(request["data"]))
    return {"code": 0, "output": ""}


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """What became of one request."""
    if "put" in request:
        return put(request)
    return follow(request) if "until" in request else run(request)


def main() -> None:
    """Answer until the port is closed."""
    with FileIO(sys.argv[1], "r+") as port:
        send(port, {"code": 0, "output": "ready"})
        for line in BufferedReader(port):
            send(port, answer(json.loads(line)))


def send(port: FileIO, answer: dict[str, Any]) -> None:
    """One line; the port takes 32 KiB at a time."""
    left = memoryview(json.dumps(answer).encode() + b"\n")
    while left:
        left = left[port.write(left) :]


main()
