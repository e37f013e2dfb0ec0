"""`chdebugctl`: finds the verb, runs it, and says in one sentence what went wrong."""

from __future__ import annotations

import os
import sys

from chdebugd.ctl import (
    bench,
    blame,
    boot,
    codes,
    compare,
    console,
    events,
    export,
    monitor,
    plot,
    times,
    vms,
)
from chdebugd.ctl.arguments import build_parser
from chdebugd.ctl.errors import CtlError, ExitStatus
from chdebugd.ctl.output import accept_any_text

FILES = [
    boot.add,
    console.add,
    vms.add,
    monitor.add,
    events.add,
    times.add,
    blame.add,
    plot.add,
    export.add,
    compare.add,
    bench.add,
    codes.add,
]


def main() -> int:
    """Run one verb; the exit statuses are those of ExitStatus."""
    accept_any_text()
    given = build_parser(FILES).parse_args()
    try:
        status = int(given.run(given))
        sys.stdout.flush()
    except CtlError as error:
        print(f"chdebugctl: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        return ExitStatus.INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has seen enough; what is buffered must not complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitStatus.OK
    return status


if __name__ == "__main__":
    raise SystemExit(main())
