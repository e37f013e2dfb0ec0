"""Builds chdebugd.trace._ring, the C side of the event ring, in cffi's API mode."""

from pathlib import Path

from cffi import FFI

HERE = Path(__file__).parent

builder = FFI()
builder.cdef((HERE / "ring.cdef.h").read_text())
builder.set_source(
    "chdebugd.trace._ring",
    (HERE / "ring_source.c").read_text(),
    include_dirs=[str(HERE)],
    depends=[str(HERE / "ring.h"), str(HERE / "journal_drain.h")],
    extra_compile_args=["-std=gnu11", "-Wall", "-Wextra", "-Werror"],
)
