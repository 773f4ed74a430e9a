"""`--help` is fast: it imports nothing heavy."""

import json
import subprocess
import sys

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
import json, sys, time
from ochatctl.cli.app import main
sys.argv = ["ochatctl", *{args!r}]
try:
    main()
except SystemExit as stop:
    code = stop.code
print(json.dumps([code, [name for name in {heavy!r} if name in sys.modules], time.process_time()]), file=sys.stderr)
"""


def run(*args: str) -> tuple[int, list[str], float, str]:
    probe = PROBE.format(args=args, heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    code, heavy, seconds = json.loads(done.stderr.splitlines()[-1])
    return code or 0, heavy, seconds, done.stdout


def test_help_imports_no_heavy_package_and_is_quick() -> None:
    runs = [run("--help") for _ in range(3)]
    for code, heavy, _, text in runs:
        assert code == 0
        assert heavy == []
        assert "quickstart" in text
    # The goal is 0.25 s of CPU; a shared machine's slowest of three would measure its neighbours.
    assert min(seconds for _, _, seconds, _ in runs) <= 0.25


def test_every_command_s_help_is_as_light() -> None:
    from ochatctl.cli.app import app
    from ochatctl.cli.commands import register

    register(app)
    names = [command.name or "" for command in app.registered_commands]
    assert {"tokens", "families"} <= set(names)
    for command in names:
        code, heavy, _, text = run(command, "--help")
        assert code == 0
        assert heavy == []
        assert "Examples" in text
