"""A help speaks of values in words, and its examples can be copied as they stand."""

import functools
import re
from typing import Any

import typer
from typer.main import get_command

from ochatctl.cli.app import RootGroup, app
from ochatctl.cli.commands import register


@functools.cache
def root() -> Any:
    register(app)
    return get_command(app)


def paths(command: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    below = getattr(command, "commands", {})
    return [(path, command), *(pair for name, each in below.items() for pair in paths(each, (*path, name)))]


@functools.cache
def shown(path: tuple[str, ...]) -> str:
    context = typer.Context(root(), info_name="ochatctl")
    for name in path:
        context = typer.Context(context.command.commands[name], info_name=name, parent=context)  # type: ignore[attr-defined]  # of a group
    return f"{context.get_help()}\n"


def test_no_help_shows_a_type_of_python_or_a_formula_for_a_range() -> None:
    helps = {path: shown(path) for path, _ in paths(root())}
    assert len(helps) > 30
    for path, text in helps.items():
        assert not re.findall(r"<[a-z][^<>]*>|list\[|x>=|<=x", text.replace("<|pad_0|>", "")), path
    assert "--gpus N" in helps["train",]
    assert "--engine auto|vllm|hf|echo" in helps["serve",]
    assert re.search(r"--temperature X +0 is greedy\. +\[default: 0\.7; 0 to\s+2\]", helps["chat",])


def test_a_usage_line_has_brackets_round_what_may_be_left_out_only() -> None:
    usages = {
        ("tokens",): "ochatctl tokens [OPTIONS] [TEXT]",
        ("push",): "ochatctl push [OPTIONS] DIR REPO",
        ("data", "clean"): "ochatctl data clean [OPTIONS] IN...",
        ("data",): "ochatctl data [OPTIONS] COMMAND [ARGS]...",
    }
    for path, usage in usages.items():
        assert shown(path).startswith(f"Usage: {usage}\n"), path


def test_every_example_is_one_line_of_the_help_however_long() -> None:
    num_long = 0
    for path, command in paths(root()):
        lines = shown(path).splitlines()
        for example in command.epilog.splitlines()[1:]:
            assert not example or example in lines, path
            num_long += len(example) > 80
    assert num_long > 5


def test_every_command_stands_in_one_chapter_of_the_first_help() -> None:
    named = [name for names in RootGroup.chapters.values() for name in names]
    assert sorted(named) == sorted(root().commands)
    text = shown(())
    places = [text.index(f"{heading}:\n") for heading in RootGroup.chapters]
    assert places == sorted(places)
    assert "Commands:" not in text
