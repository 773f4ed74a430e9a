"""`--help` is fast: it imports nothing heavy."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

HEAVY = (
    "torch",
    "transformers",
    "vllm",
    "deepspeed",
    "numpy",
    "pyarrow",
    "starlette",
    "uvicorn",
    "sentencepiece",
    "rich",
)
PROBE = """
import contextlib, io, json, sys, time
from ochatctl.cli.app import app, main
calls = {calls!r}
out = []
for call in calls:
    sys.argv = ["ochatctl", *call]
    text = io.StringIO()
    try:
        with contextlib.redirect_stdout(text):
            main()
    except SystemExit as stop:
        code = stop.code or 0
    out.append([code, [name for name in {heavy!r} if name in sys.modules], time.process_time(), text.getvalue()])
print(json.dumps(out))
"""


def run(*calls: list[str]) -> list[tuple[int, list[str], float, str]]:
    """Make calls in turn in one fresh process; give code, heavy modules and CPU so far, and text of each."""
    probe = PROBE.format(calls=calls, heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    return [tuple(row) for row in json.loads(done.stdout)]


def test_help_imports_no_heavy_package_and_is_quick() -> None:
    rows = [run(["--help"])[0] for _ in range(3)]
    for code, heavy, _, text in rows:
        assert code == 0
        assert heavy == []
        assert "quickstart" in text
    # The goal is 0.25 s of CPU; a shared machine's slowest of three would measure its neighbours.
    assert min(seconds for _, _, seconds, _ in rows) <= 0.25


def test_every_command_s_help_is_as_light() -> None:
    from typer.main import get_command

    from ochatctl.cli.app import app
    from ochatctl.cli.commands import register

    register(app)
    calls = [[*path, "--help"] for path in paths(get_command(app))]
    assert ["data", "pack", "--help"] in calls
    for call, (code, heavy, _, text) in zip(calls, run(*calls), strict=True):
        assert code == 0
        assert heavy == [], call
        assert "Examples" in text


def paths(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Give the path of every command that is not a group."""
    if not hasattr(command, "commands"):
        yield path
        return
    for name, inner in command.commands.items():
        yield from paths(inner, (*path, name))
