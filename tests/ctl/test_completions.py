"""Completions know every verb and every option, and work in the shells."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from chdebugd.ctl.__main__ import FILES
from chdebugd.ctl.arguments import build_parser
from tests.ctl.terminal import on_terminal
from tests.dbus.conftest import ROOT, TIMEOUT

COMPLETIONS = ROOT / "packaging" / "completions"
BASH, ZSH = COMPLETIONS / "chdebugctl", COMPLETIONS / "_chdebugctl"
needs_zsh = pytest.mark.skipif(
    shutil.which("zsh") is None, reason="zsh is not installed; make deps installs it"
)


def verbs() -> dict[str, argparse.ArgumentParser]:
    """The parsers of all verbs by name."""
    [action] = [
        action
        for action in build_parser(FILES)._actions
        if isinstance(action, argparse._SubParsersAction)
    ]
    return dict(action.choices)


VERBS = verbs()


def options(verb: str) -> set[str]:
    return {option for action in VERBS[verb]._actions for option in action.option_strings}


def complete(*words: str) -> list[str]:
    """What bash offers for the last of the words."""
    program = (
        f'source {BASH}; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _chdebugctl; '
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", program, "bash", "chdebugctl", *words],
        capture_output=True,
        text=True,
        check=True,
        timeout=TIMEOUT,
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_bash_offers_the_verbs() -> None:
    assert set(complete("")) == set(VERBS)
    assert complete("bo") == ["boot"]
    assert complete("-H", "box", "--json", "short", "bl") == ["blame"]


@pytest.mark.parametrize("verb", VERBS)
def test_bash_offers_all_options_of_a_verb(verb: str) -> None:
    assert set(complete(verb, "-")) == options(verb)


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["boot", "--serial", "p"], ["pty"]),
        (["boot", "--on-full", ""], ["wait", "drop"]),
        (["--json", ""], ["short", "pretty", "off"]),
        (["export", "--format", "o"], ["otlp"]),
        (["time", "--origin", "f"], ["first-entry"]),
        (["bench", "--export", ""], ["json", "csv", "md"]),
    ],
)
def test_bash_offers_the_values_of_an_option(words: list[str], offered: list[str]) -> None:
    assert complete(*words) == offered


def test_bash_offers_vms_and_boots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = "VM  STATE\\nfw0  running\\nfw1  failed\\n\\n2 VMs\\n"
    for name, text in {"chdebugctl": listing, "journalctl": "old\\nfw0\\n"}.items():
        (tmp_path / name).write_text(f'#!/bin/sh\nprintf "{text}"\n')
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    assert complete("stop", "") == ["fw0", "fw1"]
    assert complete("time", "o") == ["old"]


def test_zsh_knows_every_verb_and_option() -> None:
    text = ZSH.read_text()

    assert set(re.findall(r"^        '([a-z]+):", text, re.MULTILINE)) == set(VERBS)
    known = set(re.findall(r"(--[a-z-]+)", text)) | set(
        re.findall(r"[\s{'*](-[A-Za-z])[,\[]", text)
    )
    for verb in VERBS:
        assert options(verb) <= known, verb


@needs_zsh
@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("chdebugctl mon", "chdebugctl monitor "),
        ("chdebugctl export --form", "chdebugctl export --format="),
        ("chdebugctl boot --on-full=d", "chdebugctl boot --on-full=drop"),
    ],
)
def test_zsh_completes(line: str, completed: str, tmp_path: Path) -> None:
    environment = os.environ | {"HOME": str(tmp_path), "TERM": "dumb", "PS1": "> "}
    with on_terminal(["zsh", "-f", "-i"], environment) as terminal:
        terminal.say(
            f"unsetopt zle_bracketed_paste; fpath=({COMPLETIONS} $fpath); "
            "autoload -U compinit; compinit -u -D; print re''ady\n"
        )
        terminal.wait_for("ready")

        terminal.say(line + "\t")

        terminal.wait_for(completed)


def test_the_scripts_have_no_faults() -> None:
    subprocess.run(["shellcheck", "--shell=bash", str(BASH)], check=True)
