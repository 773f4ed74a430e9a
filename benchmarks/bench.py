"""`bench suite` beside lm-evaluation-harness: GSM8K's 1,319 prompts (8-shot, 11.7 MB) asked of one echo endpoint.

Both run as whole commands, in turns, against the same server, with the same prompts, number of requests at once, token
limit and stop string; the best run counts for each. Answers are short, so that it is the asking which is
measured, not the server. lm-eval reads the prompts as a local task, since its own come from the hub; it writes its
results, without samples, while ours journals every answer.

    ochatctl bench download gsm8k
    python -m venv peer && peer/bin/pip install 'lm-eval[api]'
    python benchmarks/bench.py --lm-eval peer/bin/lm_eval
"""

import argparse
import contextlib
import datetime
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ochatctl.bench.datasets import data_file

MAX_TOKENS = 32
STOP = "\n\nQuestion:"
# Bytes are the echo engine's tokens; the longest prompt has 9,000.
CONTEXT_TOKENS = 16384
NEEDED_RATIO = 3.0
TASK = f"""\
task: gsm8k_prompts
dataset_path: json
dataset_kwargs:
  data_files:
    test: PROMPTS
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{label}}}}"
num_fewshot: 0
generation_kwargs:
  until: [{json.dumps(STOP)}]
  max_gen_toks: {MAX_TOKENS}
  temperature: 0
  do_sample: false
metric_list:
  - metric: exact_match
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lm-eval", required=True, help="the `lm_eval` of an environment of its own")
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    ours: list[float] = []
    theirs: list[float] = []
    with tempfile.TemporaryDirectory() as name, echo_server(Path(name)) as base_url:
        folder = Path(name)
        for number in range(args.rounds):
            ours.append(timed(our_command(base_url, folder / f"ours-{number}", args.concurrency)))
            theirs.append(timed(their_command(args.lm_eval, base_url, folder, args.concurrency), offline(folder)))
        num_answers = check(folder)
    print(f"{datetime.date.today()}: {num_answers:,} prompts, {args.concurrency} at once, at most {MAX_TOKENS} tokens")
    print(f"ochatctl bench suite       {', '.join(f'{seconds:.1f}' for seconds in ours)} s")
    print(f"lm_eval                    {', '.join(f'{seconds:.1f}' for seconds in theirs)} s")
    print(f"ratio of the better runs   {min(theirs) / min(ours):.2f} x (needed: {NEEDED_RATIO:g} x)")
    if min(theirs) < NEEDED_RATIO * min(ours):
        sys.exit("too slow")


@contextlib.contextmanager
def echo_server(folder: Path) -> Iterator[str]:
    """Give the base URL of a server without a model."""
    command = [sys.executable, "-m", "ochatctl", "serve", "--engine", "echo", "--port", "0"]
    command += ["--max-model-len", str(CONTEXT_TOKENS), "--disable-log-requests"]
    log = folder / "server.log"
    with log.open("w") as out:
        server = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 60
        while not (found := re.search(r"http://[\w.]+:\d+", log.read_text())):
            if server.poll() is not None or time.monotonic() > deadline:
                sys.exit(log.read_text())
            time.sleep(0.1)
        yield f"{found[0]}/v1"
    finally:
        server.terminate()
        server.wait()


def our_command(base_url: str, out: Path, concurrency: int) -> list[str]:
    """Ask as the suite does."""
    command = [sys.executable, "-m", "ochatctl", "bench", "suite", "--tasks", "gsm8k", "--base-url", base_url]
    return [*command, "--max-tokens", str(MAX_TOKENS), "--concurrency", str(concurrency), "--out", str(out)]


def their_command(lm_eval: str, base_url: str, folder: Path, concurrency: int) -> list[str]:
    """Ask the same of the same."""
    (folder / "task").mkdir(exist_ok=True)
    (folder / "task" / "gsm8k_prompts.yaml").write_text(TASK.replace("PROMPTS", str(prompts(folder))))
    model = f"model=echo,base_url={base_url}/chat/completions,num_concurrent={concurrency},tokenized_requests=False"
    command = [lm_eval, "--model", "local-chat-completions", "--model_args", model, "--apply_chat_template"]
    command += ["--include_path", str(folder / "task"), "--tasks", "gsm8k_prompts"]
    return [*command, "--output_path", str(folder / "theirs")]


def prompts(folder: Path) -> Path:
    """Write the prompts with plain labels, as lm-eval's template wants them."""
    path = folder / "prompts.jsonl"
    rows = [json.loads(line) for line in data_file("gsm8k", "gsm8k.jsonl").read_text(encoding="utf-8").splitlines()]
    text = "".join(json.dumps({"question": row["question"], "label": row["label"][0]}) + "\n" for row in rows)
    path.write_text(text)
    return path


def offline(folder: Path) -> dict[str, str]:
    """Keep the peer from looking for the hub, which would cost it time."""
    return {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "hf"), "OPENAI_API_KEY": "none"}


def timed(command: list[str], extra: dict[str, str] | None = None) -> float:
    """Run a whole command."""
    started = time.monotonic()
    done = subprocess.run(command, env={**os.environ, **(extra or {})}, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
    return time.monotonic() - started


def check(folder: Path) -> int:
    """Make sure that every prompt was answered on both sides, and give their number."""
    report = json.loads((folder / "ours-0" / "report.json").read_text())
    answered = report["overall"]["num_items"] - report["overall"]["num_errors"] - report["overall"]["num_unasked"]
    (results, *_) = sorted((folder / "theirs").rglob("results*.json"))
    theirs = json.loads(results.read_text())["n-samples"]["gsm8k_prompts"]["effective"]
    if answered != theirs:
        sys.exit(f"{answered} answers of ours, {theirs} of theirs")
    return int(answered)


if __name__ == "__main__":
    main()
