"""The command line: options that all verbs share, and the verbs, each added by its own file."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from chdebugd import __version__
from chdebugd.ctl.errors import UsageError
from chdebugd.ctl.output import Output
from chdebugd.ctl.place import Place

Run = Callable[[argparse.Namespace], int]
EPILOG = "See chdebugctl(1) for all options and exit statuses, with examples."


class Verbs:
    """Collects the verbs."""

    def __init__(self, parser: argparse.ArgumentParser, shared: argparse.ArgumentParser) -> None:
        self._shared = shared
        self._verbs = parser.add_subparsers(metavar="VERB", required=True)

    def add(self, name: str, summary: str, run: Run) -> argparse.ArgumentParser:
        """A verb that `run` does; returns the parser of its own arguments."""
        parser = self._verbs.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=EPILOG,
            parents=[self._shared],
            allow_abbrev=False,
        )
        parser.set_defaults(run=run)
        return parser


def build_parser(files: Sequence[Callable[[Verbs], None]]) -> argparse.ArgumentParser:
    """The whole command line; each of `files` adds its verbs."""
    shared = _shared_options()
    parser = argparse.ArgumentParser(
        prog="chdebugctl",
        description="Boot virtual machines under chdebugd, and see where their time goes.",
        epilog=EPILOG,
        parents=[shared],
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"chdebugctl {__version__}")
    verbs = Verbs(parser, shared)
    for add in files:
        add(verbs)
    return parser


def _shared_options() -> argparse.ArgumentParser:
    """Before the verb or behind it; unset ones must not undo what was set at the other place."""
    shared = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    group = shared.add_argument_group("options of all verbs")
    group.add_argument("-H", "--host", metavar="[USER@]HOST", help="another machine, through ssh")
    group.add_argument("-M", "--machine", metavar="CONTAINER", help="a local container")
    group.add_argument("--bus", metavar="ADDRESS", help="a D-Bus address; default: system bus")
    group.add_argument(
        "-D",
        "--directory",
        metavar="DIR",
        help="read journal files in DIR",
    )
    group.add_argument(
        "--json", choices=["short", "pretty", "off"], help="print JSON instead of text"
    )
    group.add_argument("--no-pager", action="store_true", help="never pipe output into a pager")
    return shared


def place_of(given: argparse.Namespace) -> Place:
    """Where the user wants it; raises UsageError."""
    chosen = [name for name in ("host", "machine", "bus") if getattr(given, name, None)]
    if len(chosen) > 1:
        raise UsageError(f"--{chosen[0]} and --{chosen[1]} exclude each other; give one of them")
    return Place(
        bus=_get(given, "bus"),
        host=_get(given, "host"),
        container=_get(given, "machine"),
        journal_dir=_get(given, "directory"),
    )


def output_of(given: argparse.Namespace) -> Output:
    """How the user wants it."""
    return Output(json=_get(given, "json") or "off", pager=not _get(given, "no_pager"))


def _get(given: argparse.Namespace, name: str) -> Any:
    return getattr(given, name, None)
