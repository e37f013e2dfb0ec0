"""Configuration, code maps and start requests: a file is used, or refused by a named error."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chdebugd.limits import ConfigError, load_limits
from chdebugd.trace.codemap import CodeMap, CodeMapError
from tests.fuzz.conftest import FACTOR

pytestmark = pytest.mark.fuzz
tried = settings(
    max_examples=600 * FACTOR,
    deadline=None,
    derandomize=FACTOR == 1,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

WORDS = st.sampled_from(["codes", "spans", "name", "from", "to", "stage", "title", "limits"])
LIMITS = st.sampled_from(["vms", "vms-per-user", "vcpus-per-vm", "memory-per-vm", "queue", ""])
CODES = st.sampled_from(["0x80", "128", "0x100", "-1", "0b1", " 7", "1_0", "", "0x"])
KEYS = WORDS | LIMITS | CODES | st.text(max_size=4)
LEAVES = (
    st.integers()
    | st.floats()
    | st.booleans()
    | st.text(max_size=6)
    | st.sampled_from([math.inf, -math.inf, math.nan, 1 << 64, "0xff", "\x00", "\n"])
)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3)
)
TABLES = st.dictionaries(KEYS, VALUES, max_size=4)


def toml(value: Any) -> str:
    """The value as TOML writes it in one line."""
    match value:
        case bool():
            return str(value).lower()
        case int() | float():
            return repr(value)
        case str():
            return '"' + "".join(f"\\U{ord(c):08x}" for c in value) + '"'
        case list():
            return f"[{', '.join(map(toml, value))}]"
    return "{" + ", ".join(f"{toml(k)} = {toml(v)}" for k, v in value.items()) + "}"


def document(table: dict[str, Any]) -> bytes:
    lines = [f"{toml(key)} = {toml(value)}" for key, value in table.items()]
    return "\n".join(lines).encode(errors="surrogatepass")


HUGE = b"[[spans]]\nname = 'a'\nto = 1\nfrom = 0x" + b"f" * 5000  # more digits than Python prints
DOCUMENTS = (
    st.builds(document, TABLES)
    | st.builds(lambda codes: document({"codes": codes}), TABLES)
    | st.builds(lambda spans: document({"spans": spans}), st.lists(TABLES, max_size=3))
    | st.builds(lambda limits: document({"limits": limits}), TABLES)
    | st.binary(max_size=64)
    | st.sampled_from([b"a = " + b"[" * 5000, b"a = " + b"9" * 5000, HUGE, b"\xff\xfe", b"\0"])
)


@pytest.mark.parametrize(
    ("read", "refusal"), [(CodeMap.read, CodeMapError), (load_limits, ConfigError)]
)
def test_a_file_is_used_or_refused_by_name(
    tmp_path: Path, read: Callable[[Path], object], refusal: type[Exception]
) -> None:
    path = tmp_path / "file.toml"

    @tried
    @given(DOCUMENTS)
    def attempt(data: bytes) -> None:
        path.write_bytes(data)
        with contextlib.suppress(refusal):
            read(path)

    attempt()
