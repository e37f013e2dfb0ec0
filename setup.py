"""Builds what pyproject.toml cannot name: the cffi extensions and the demo guest."""

import subprocess
from pathlib import Path

from setuptools import setup
from setuptools.command.build_ext import build_ext

DEMO_GUEST = Path("chdebugd/vmm/boot/demo_guest")


class BuildAll(build_ext):
    """Assemble the demo guest beside the extensions."""

    def run(self) -> None:
        super().run()
        target = Path("." if self.inplace else self.build_lib) / DEMO_GUEST.with_suffix(".bin")
        target.parent.mkdir(parents=True, exist_ok=True)
        elf = Path(self.build_temp) / "demo_guest.elf"
        elf.parent.mkdir(parents=True, exist_ok=True)
        source = str(DEMO_GUEST.with_suffix(".S"))
        link = ["-static", "-nostdlib", "-no-pie", "-Wl,--build-id=none,-Ttext=0,-e,0"]
        subprocess.run(["gcc", *link, "-o", str(elf), source], check=True)
        subprocess.run(
            ["objcopy", "-O", "binary", "-j", ".text", str(elf), str(target)], check=True
        )


setup(
    cffi_modules=[
        "chdebugd/trace/ring_build.py:builder",
        "chdebugd/vmm/kvm_build.py:builder",
        "chdebugd/vmm/virtio/engine_build.py:builder",
    ],
    cmdclass={"build_ext": BuildAll},
)
