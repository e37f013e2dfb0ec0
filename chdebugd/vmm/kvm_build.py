"""Builds chdebugd.vmm._kvm, the border to /dev/kvm, in cffi's API mode."""

from pathlib import Path

from cffi import FFI

HERE = Path(__file__).parent
TRACE = HERE.parent / "trace"

builder = FFI()
builder.cdef((HERE / "kvm.cdef.h").read_text())
builder.set_source(
    "chdebugd.vmm._kvm",
    (HERE / "kvm_source.c").read_text(),
    include_dirs=[str(HERE), str(TRACE)],
    depends=[str(HERE / "filter.h"), str(TRACE / "ring.h")],
    libraries=["seccomp"],
    extra_compile_args=["-std=gnu11", "-Wall", "-Wextra", "-Werror"],
)
