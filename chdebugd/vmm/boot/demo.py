"""The demo guest that ships with the package: what runs when nobody names an image."""

from __future__ import annotations

import os
from pathlib import Path

from chdebugd.vmm.boot.image import Image

PATH = Path(__file__).with_name("demo_guest.bin")


def open_demo_guest() -> Image:
    """The demo guest as a firmware image; the caller closes its descriptor."""
    return Image("firmware", str(PATH), os.open(PATH, os.O_RDONLY | os.O_CLOEXEC))
