"""Builds chdebugd.vmm.virtio._engine, the data path of virtio devices, in cffi's API mode."""

from pathlib import Path

from cffi import FFI

HERE = Path(__file__).parent
VMM = HERE.parent
TRACE = VMM.parent / "trace"

builder = FFI()
builder.cdef((HERE / "engine.cdef.h").read_text())
builder.set_source(
    "chdebugd.vmm.virtio._engine",
    (HERE / "engine_source.c").read_text(),
    include_dirs=[str(HERE), str(VMM), str(TRACE)],
    depends=[str(VMM / "filter.h"), *map(str, HERE.glob("*.h"))],
    libraries=["seccomp"],
    extra_compile_args=["-std=gnu11", "-Wall", "-Wextra", "-Werror"],
)
