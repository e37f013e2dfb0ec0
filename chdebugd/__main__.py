"""`chdebugd`: arguments, then daemon.run; nothing else."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from chdebugd import __version__
from chdebugd.daemon import Settings, StartupError, run
from chdebugd.limits import CONFIG, ConfigError


def main() -> int:
    """Run the daemon; the exit status is 1 where it could not start or lost the bus."""
    parser = argparse.ArgumentParser(
        prog="chdebugd", description="Traces how virtual machines boot. See chdebugd(8)."
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--bus", metavar="ADDRESS", help="a D-Bus address; default: system bus")
    parser.add_argument("--runtime-dir", type=Path, default=Path("/run/chdebugd"))
    parser.add_argument("--log-dir", type=Path, default=Path("/var/log/chdebugd"))
    parser.add_argument("--journal", metavar="SOCKET", default="", help="journald's socket")
    parser.add_argument("--config", type=Path, default=CONFIG, help="limits; see chdebugd(8)")
    given = parser.parse_args()
    settings = Settings(given.bus, given.runtime_dir, given.log_dir, given.journal, given.config)
    try:
        return asyncio.run(run(settings))
    except (StartupError, ConfigError, OSError) as error:
        print(f"chdebugd: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
