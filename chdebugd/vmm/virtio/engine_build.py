"""Builds chdebugd.vmm.virtio._engine, the data path of virtio devices, in cffi's API mode."""

from pathlib import Path

from cffi import FFI

HERE = Path(__file__).parent
VMM = HERE.parent
TRACE = VMM.parent / "trace"
INCLUDED = ("filter.h", "virtio/queue.h", "virtio/block.h", "virtio/net.h")

builder = FFI()
builder.cdef((HERE / "engine.cdef.h").read_text())
builder.set_source(
    "chdebugd.vmm.virtio._engine",
    (HERE / "engine_source.c").read_text(),
    include_dirs=[str(HERE), str(VMM), str(TRACE)],
    depends=[str(HERE / name) for name in ("queue.h", "block.h", "net.h")]
    + [str(VMM / "filter.h")],
    libraries=["seccomp"],
    extra_compile_args=["-std=gnu11", "-Wall", "-Wextra", "-Werror"],
)
