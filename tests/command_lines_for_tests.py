"""The `ochatctl` lines of documents and scripts, and a parser that runs none of them."""

import re
import shlex
from pathlib import Path
from typing import Any

from typer.main import get_command

from ochatctl.cli.app import app
from ochatctl.cli.commands import register

register(app)
COMMAND = get_command(app)


def documented_lines(path: Path) -> list[str]:
    """Give the `ochatctl` lines of a document's shell blocks, continued lines joined, and its whole lines in text."""
    text = path.read_text(encoding="utf-8")
    out = re.findall(r"`(ochatctl [^`]* --[^`]*)`", text)
    for block in re.findall(r"```(?:bash|sh|console)\n(.*?)```", text, re.DOTALL):
        out += script_lines(block)
    return [re.split(r" [|>] ", line)[0] for line in out]


def script_lines(script: str) -> list[str]:
    """Give the `ochatctl` lines of a shell script, continued lines joined, without comments."""
    out = []
    for line in script.replace("\\\n", " ").splitlines():
        command = line.strip().removeprefix("$ ").split(" && ")[-1].split(" # ")[0].split("  #")[0]
        if command.startswith("ochatctl "):
            out.append(command.removesuffix(" &").strip())
    return out


def parse(line: str) -> None:
    """Parse a line to its end without running it."""
    words = shlex.split(line)[1:]
    command: Any = COMMAND
    context = command.make_context("ochatctl", [], resilient_parsing=True)
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        name = words.pop(0)
        assert name in command.commands, f"`{line}`: no command `{name}`"
        command = command.commands[name]
        if not hasattr(command, "commands"):
            command.make_context(name, words, parent=context)
