"""The demo guest that ships with the package: what runs when nobody names an image."""

from __future__ import annotations

import os

from chdebugd.vmm.boot.image import Image

PATH = os.path.join(os.path.dirname(__file__), "demo_guest.bin")


def open_demo_guest() -> Image:
    """The demo guest as a firmware image; the caller closes its descriptor."""
    return Image("firmware", PATH, os.open(PATH, os.O_RDONLY | os.O_CLOEXEC))
