"""`ochatctl quickstart`: the whole chain in front of the user, each step run as the command that it prints."""

import contextlib
import dataclasses
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ochatctl.cli.options import DEFAULT_PORT, MaybeModel, OchatCommand, Yes
from ochatctl.cli.output import Output, examples
from ochatctl.config import build, to_table
from ochatctl.errors import ConfigError, RunError, UsageProblem
from ochatctl.files import read_json, write_json
from ochatctl.lock import check_free, hold

STATE_NAME = "quickstart.json"
STATE_VERSION = 1
FAMILY = "openchat_v3.2"
QUESTION = "What is ochatctl?"
_SERVER_START_SECONDS = 300
_ANSWER_SECONDS = 120


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """What `--out` holds: the options that made it, and the seconds that each finished step took."""

    version: int = STATE_VERSION
    model: str | None = None
    done: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One command. A step with an `out` is skipped when it is done and its output is there."""

    name: str
    says: str
    arguments: tuple[str, ...]
    out: Path | None = None


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "quickstart",
        cls=OchatCommand,
        epilog=examples(
            "ochatctl quickstart",
            "ochatctl quickstart --out mine --fresh --yes",
            "ochatctl quickstart --model HuggingFaceTB/SmolLM2-135M-Instruct --out smollm2",
        ),
    )(quickstart)


def quickstart(
    out: Annotated[Path, typer.Option("--out", help="The folder for everything that is made.")] = Path("quickstart"),
    model: MaybeModel = None,
    engine: Annotated[Literal["auto", "vllm", "hf"], typer.Option("--engine", help="What serves the model.")] = "hf",
    fresh: Annotated[bool, typer.Option("--fresh", help="Start anew instead of resuming; needs `--yes`.")] = False,
    yes: Yes = False,
) -> None:
    """Run the whole chain here: clean and pack sample chats, train, serve, chat, benchmark."""
    # A stopped chain must stop its server too: the usual end at SIGTERM would skip every `finally`.
    signal.signal(signal.SIGTERM, _terminated)
    check_free(out)
    state = _open(out, model=model, fresh=fresh, yes=yes)
    with hold(out):
        chain = Chain(Output(), state, out, _samples())
        for step in _making_steps(out, model):
            chain.run(step)
        port = _free_port()
        with chain.server(_serve_arguments(out, engine, port), port):
            chain.ask(port)
            chain.run(_bench_step(out, port))
        chain.summary()


def _making_steps(out: Path, model: str | None) -> list[Step]:
    """Give the steps up to a trained model."""
    chats, base, with_eot, packed = out / "chats.jsonl", out / "base", out / "base-eot", out / "packed" / "chats"
    source = str(_samples() / "chats.json")
    clean = ("data", "clean", source, "--out", str(chats), "--rules", "plain", "--rule", "class", "--yes")
    steps = [Step(name="clean", says="Clean the sample chats", arguments=clean, out=chats)]
    if model is None:
        arguments = ("make-base", str(chats), "--out", str(base), "--yes")
        steps.append(Step(name="make-base", says="Make a small base model from scratch", arguments=arguments, out=base))
    add_eot = ("add-eot", model or str(base), "--out", str(with_eot), "--family", FAMILY, "--yes")
    steps.append(Step(name="add-eot", says="Give it an end-of-turn token", arguments=add_eot, out=with_eot))
    pack = ["data", "pack", str(chats), "--model", str(with_eot), "--out", str(packed), "--yes"]
    pack += [] if model is None else ["--limit", "4"]
    steps.append(Step(name="pack", says="Turn the chats into token rows", arguments=tuple(pack), out=packed.parent))
    recipe = _FROM_SCRATCH if model is None else _FINE_TUNE
    train = ("train", "--model", str(with_eot), "--data", str(packed), "--out", str(out / "run"), *_devices(), *recipe)
    steps.append(
        Step(
            name="train", says="Train, without padding", arguments=(*train, "--resume", "no", "--yes"), out=out / "run"
        )
    )
    return steps


# Measured on 2 cores: enough epochs for the small model to recite its chats, in about a minute.
_FROM_SCRATCH = ("--strategy", "fsdp", "--epochs", "30", "--lr", "4e-3", "--batch-tokens", "1024", "--save-every", "30")
# About 3,400 training tokens, which two cores take about a minute over with a model of 135 M. The end-of-turn token's
# row begins as the mean of all others, and little but the sum of the learning rates moves it away from them: it is
# learnt last, after the chats are known by heart.
_FINE_TUNE = ("--strategy", "fsdp", "--epochs", "20", "--lr", "3e-3", "--batch-tokens", "96", "--save-every", "20")
# The recipes are for so many; the few chats would not fill the steps of more.
_MAX_RANKS = 2
_MAX_ANSWER_TOKENS = 64


def _devices() -> tuple[str, ...]:
    from ochatctl.memory import gpus

    found = len(gpus())
    if found:
        return ("--gpus", str(min(_MAX_RANKS, found)))
    return ("--cpu", "--gpus", str(min(_MAX_RANKS, os.cpu_count() or 1)))


def _serve_arguments(out: Path, engine: str, port: int) -> tuple[str, ...]:
    return ("serve", "--model", str(out / "run"), "--engine", engine, "--port", str(port))


def _bench_step(out: Path, port: int) -> Step:
    tasks = _samples() / "tasks.jsonl"
    arguments = ("bench", "suite", "--tasks", str(tasks), "--base-url", _url(port), "--out", str(out / "bench"))
    return Step(name="bench", says="Run a small benchmark", arguments=(*arguments, "--max-tokens", "32", "--yes"))


class Chain:
    """Runs the steps, remembers which are done, and times them."""

    def __init__(self, output: Output, state: State, out: Path, samples: Path) -> None:
        self._output = output
        self._done = dict(state.done)
        self._kept: set[str] = set()
        self._model = state.model
        self._out = out
        self._samples = samples
        self._seconds: dict[str, float] = {}

    def run(self, step: Step) -> None:
        """Run a step, or say that it is done.

        Raises:
            RunError: the step's command failed; the hint resumes.
        """
        self._announce(step.says, step.arguments)
        if step.out is not None and step.name in self._done and step.out.exists():
            self._output.note("  done before; kept")
            self._kept.add(step.name)
            return
        # What came after it was made of its old output.
        self._done = {name: seconds for name, seconds in self._done.items() if name in self._kept}
        start = time.monotonic()
        code = _call(_command(step.arguments))
        self._finish(step.name, code, time.monotonic() - start, keep=step.out is not None)

    @contextlib.contextmanager
    def server(self, arguments: Sequence[str], port: int) -> Iterator[None]:
        """Serve while the block runs; nothing is left behind."""
        self._announce("Serve it", arguments)
        start = time.monotonic()
        log = self._out / "serve.log"
        with log.open("wb") as sink:
            process = subprocess.Popen(_command(arguments), stdout=sink, stderr=subprocess.STDOUT)
        try:
            self._wait_until_healthy(process, port, log)
            self._seconds["serve"] = time.monotonic() - start
            self._output.note(f"  ready at {_url(port)}; its log: {log}")
            yield
        finally:
            process.terminate()
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def ask(self, port: int) -> None:
        """Ask one question over HTTP, show the streamed reply, and say whether it is what was trained on."""
        most = str(_MAX_ANSWER_TOKENS)
        arguments = ("chat", "--base-url", _url(port), "--temperature", "0", "--max-tokens", most, "-m", QUESTION)
        self._announce("Ask it something that it was trained on", arguments)
        start = time.monotonic()
        process = subprocess.Popen(_command(arguments), stdout=subprocess.PIPE)
        assert process.stdout is not None
        reply = b""
        while piece := os.read(process.stdout.fileno(), 4096):
            reply += piece
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
        self._finish("chat", process.wait(), time.monotonic() - start, keep=False)
        same = reply.decode("utf-8", "replace").strip() == _trained_answer(self._samples)
        verdict = "the reply is, word for word, the answer that it was trained on"
        self._output.note(f"  {verdict}" if same else "  the trained answer: " + _trained_answer(self._samples))
        if _ends_its_answer(port):
            self._output.note("  and the model has ended it, with its end-of-turn token")
        else:
            self._output.note(f"  the model has not ended it within {_MAX_ANSWER_TOKENS} tokens: it needs more steps")

    def summary(self) -> None:
        """Show what was made, how long it took, and how to go on."""
        rows = [(name, f"{seconds:.1f} s") for name, seconds in self._seconds.items()]
        self._output.note("")
        self._output.table({}, ("step", "took"), rows)
        made = {"model": self._out / "run", "chats": self._out / "chats.jsonl", "benchmark": self._out / "bench"}
        for name, path in made.items():
            self._output.note(f"{name}: {path}")
        self._output.note(f"\ngo on with: ochatctl chat --model {shlex.quote(str(self._out / 'run'))}")

    def _announce(self, says: str, arguments: Sequence[str]) -> None:
        self._output.note(f"\n{says}\n$ ochatctl {shlex.join(arguments)}")

    def _finish(self, name: str, code: int, seconds: float, *, keep: bool) -> None:
        if code != 0:
            raise RunError(
                f"`ochatctl {name}` ended with exit code {code}", hint=f"mend it, then `{self._again()}` resumes"
            )
        self._seconds[name] = seconds
        if keep:
            self._done[name] = round(seconds, 1)
            self._kept.add(name)
            write_json(self._out / STATE_NAME, to_table(State(model=self._model, done=self._done)))

    def _again(self) -> str:
        model = [] if self._model is None else ["--model", self._model]
        return shlex.join(["ochatctl", "quickstart", "--out", str(self._out), *model])

    def _wait_until_healthy(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        deadline = time.monotonic() + _SERVER_START_SECONDS
        while time.monotonic() < deadline:
            if process.poll() is not None:
                tail = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-5:]
                raise RunError("the server did not start:\n  " + "\n  ".join(tail), hint=f"`{self._again()}` resumes")
            with contextlib.suppress(urllib.error.URLError, OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
                return
            time.sleep(0.2)
        raise RunError(f"the server did not answer within {_SERVER_START_SECONDS} s", hint=f"read `{log}`")


def _terminated(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def _open(out: Path, *, model: str | None, fresh: bool, yes: bool) -> State:
    """Give the state of `--out`, new or resumed."""
    path = out / STATE_NAME
    if fresh and out.exists():
        if not yes:
            raise UsageProblem(f"`--fresh` deletes `{out}`", hint="add `--yes` to do so")
        if not path.exists() and any(out.iterdir()):
            raise UsageProblem(f"`{out}` was not made by quickstart", hint="choose another `--out`")
        shutil.rmtree(out)
    if not path.exists():
        if out.exists() and any(out.iterdir()):
            raise UsageProblem(f"`{out}` exists and was not made by quickstart", hint="choose another `--out`")
        state = State(model=model)
        write_json(path, to_table(state))
        return state
    state = build(State, _table(path), where=str(path))
    if state.version > STATE_VERSION:
        raise ConfigError(
            f"{path}: version {state.version} is newer than {STATE_VERSION}, which this ochatctl reads",
            hint="pip install -U ochatctl",
        )
    if state.model != model:
        made = "without `--model`" if state.model is None else f"with `--model {state.model}`"
        raise UsageProblem(f"`{out}` was made {made}", hint="choose another `--out`, or add `--fresh --yes`")
    return state


def _table(path: Path) -> dict[str, Any]:
    value = read_json(path)
    return value if isinstance(value, dict) else {"not a table": value}


def _samples() -> Path:
    return Path(str(resources.files("ochatctl") / "samples"))


def _trained_answer(samples: Path) -> str:
    for item in json.loads((samples / "chats.json").read_text(encoding="utf-8")):
        turns = item.get("conversations") or []
        if len(turns) == 2 and turns[0].get("value") == QUESTION:
            return str(turns[1]["value"])
    raise AssertionError("the samples hold the question")


def _ends_its_answer(port: int) -> bool:
    """Ask the same again, and say whether the model stopped by itself."""
    body = {
        "model": FAMILY, "messages": [{"role": "user", "content": QUESTION}], "temperature": 0,
        "max_tokens": _MAX_ANSWER_TOKENS,
    }  # fmt: skip
    request = urllib.request.Request(
        f"{_url(port)}/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=_ANSWER_SECONDS) as reply:
            return bool(json.load(reply)["choices"][0]["finish_reason"] == "stop")
    except (urllib.error.URLError, OSError) as error:
        raise RunError(f"the server did not answer: {error}", hint="read `serve.log` in `--out`") from error


def _call(command: Sequence[str]) -> int:
    """Run a command to its end; where we are stopped, stop it and wait until it has gone."""
    with subprocess.Popen(command) as process:
        try:
            return process.wait()
        except BaseException:
            process.terminate()
            raise


def _command(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "ochatctl", *arguments]


def _url(port: int) -> str:
    return f"http://localhost:{port}/v1"


def _free_port() -> int:
    """Give the usual port, or a free one where it is taken."""
    for port in (DEFAULT_PORT, 0):
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise RunError("no port is free on 127.0.0.1", hint="close some programs")
