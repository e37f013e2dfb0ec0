"""Runs in files: boots, the host they ran on, and figures made of them, as JSON.

The boots are what counts: every figure can be made from them anew.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from chdebugd.ctl.boots import Boot
from chdebugd.ctl.errors import CtlError

FORMAT = "chdebugd-runs"
VERSION = 1


def document(boots: list[Boot], **more: Any) -> dict[str, Any]:
    """What a file of saved runs holds."""
    head = {"format": FORMAT, "version": VERSION}
    return head | more | {"boots": [boot.to_json() for boot in boots]}


def load_boots(path: Path) -> list[Boot]:
    """The boots in a file, at least one; raises CtlError."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CtlError(f"Cannot read '{path}': {error.strerror}; name a saved run") from None
    except ValueError as error:
        raise CtlError(f"'{path}' is not JSON: {error}; save a run with export or bench") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise CtlError(f"'{path}' is not a saved run; make one with export --format=runs or bench")
    if data.get("version") != VERSION:
        raise CtlError(
            f"'{path}' has version {data.get('version')}; this chdebugctl reads {VERSION}"
        )
    try:
        boots = [Boot.from_json(each) for each in data["boots"]]
    except (KeyError, TypeError, ValueError) as error:
        raise CtlError(f"'{path}' is damaged: {error}; save the run again") from None
    if not boots:
        raise CtlError(f"'{path}' has no boots; save a run that has")
    return boots
