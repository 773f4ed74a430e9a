"""Every example that a help or a document shows parses as the command it claims to be."""

import contextlib
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from command_lines_for_tests import COMMAND, documented_lines, parse

ROOT = Path(__file__).parent.parent


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Give every command that is not a group, with its path."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


def examples(command: Any) -> list[str]:
    return [line.strip() for line in (command.epilog or "").splitlines() if line.strip().startswith("ochatctl")]


PATHS = sorted(commands(COMMAND))


@pytest.mark.parametrize(("path", "command"), PATHS, ids=[" ".join(path) for path, _ in PATHS])
def test_every_help_ends_with_examples_that_parse(path: tuple[str, ...], command: Any) -> None:
    shown = examples(command)
    assert 2 <= len(shown) <= 4
    for line in shown:
        assert shlex.split(line.split(" | ")[0])[1 : 1 + len(path)] == list(path)
        parse(line.split(" > ")[0].split(" | ")[0])


def test_every_command_of_the_house_is_there() -> None:
    names = {" ".join(path) for path, _ in PATHS}
    trunk = {"quickstart", "make-base", "add-eot", "tokens", "families", "train", "serve", "chat", "doctor"}
    assert trunk | {"data clean", "data pack", "bench suite", "bench mtbench"} <= names


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "examples/README.md"])
def test_the_documents_lines_parse(name: str) -> None:
    lines = documented_lines(ROOT / name)
    if name == "README.md":
        assert len(lines) >= 20
    for line in lines:
        with contextlib.suppress(typer.Exit):  # `--help` and `--version`
            parse(line)


# One vocabulary: these flags mean one thing everywhere.
MEANINGS = {
    "--out": "out", "--seed": "seed", "--limit": "limit", "--yes": "yes", "--json": "json", "--condition": "condition",
    "--family": "family", "--dry-run": "dry_run", "--engine": "engine", "--data": "data", "--strategy": "strategy",
    "--base-url": "base_url", "--api-key": "api_key", "--model-name": "model_name", "--model": "model",
}  # fmt: skip


def test_one_vocabulary() -> None:
    seen: dict[str, set[str]] = {}
    for path, command in PATHS:
        options = {flag: param for param in command.params for flag in param.opts}
        for flag, meaning in MEANINGS.items():
            if flag in options:
                assert options[flag].name == meaning, f"{path}: {flag}"
                seen.setdefault(flag, set()).add(" ".join(path))
        for flag in options:
            assert flag not in ("--output", "--model-path", "--force", "--pull", "--fetch"), f"{path}: {flag}"
        if "--family" in options:
            assert "--model-type" in options
    assert set(MEANINGS) <= set(seen)
