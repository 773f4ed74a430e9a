"""A file that `data pack` wrote, in ochat 3.2.2's own loader and training step; a file that ochat wrote, in ours.

ochat comes from PyPI into an environment of its own. `inside_ochat.py` says what of the training is real and what
stands in for a GPU. The script ends with an error where anything differs.

    python benchmarks/ochat_loader.py --tokenizer DIR                       made-up conversations
    python benchmarks/ochat_loader.py --tokenizer DIR --chats clean.jsonl   some of your own

DIR holds Llama 2's `tokenizer.model` with `<|end_of_turn|>` added. Linux only.
"""

import argparse
import datetime
import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import encode
import numpy as np
import ochat_peer

import ochatctl
from ochatctl.data.dataset import open_dataset

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True, help="Llama 2's tokenizer with <|end_of_turn|>")
    parser.add_argument("--chats", type=Path, help="conversation JSONL; default: made-up conversations")
    parser.add_argument("--limit", type=int, default=150, help="conversations")
    parser.add_argument("--steps", type=int, default=12, help="steps that ochat trains")
    parser.add_argument("--venv", type=Path, help="where ochat's environment is made, and found again")
    parser.add_argument("--dir", help="where scratch files are written (and removed); default: the system's")
    args = parser.parse_args()
    more = ("wandb",) if importlib.util.find_spec("deepspeed") else ("wandb", "deepspeed")
    with tempfile.TemporaryDirectory(dir=args.dir) as name:
        work = Path(name)
        python = ochat_peer.ochat_python((args.venv or work / "venv").absolute(), more=more)
        print(f"{datetime.date.today()}, ochatctl {ochatctl.__version__}")
        print(ochat_peer.versions(python, "ochat", "transformers", "torch", "numba", "pyarrow", "numpy"))
        chats = args.chats
        if chats is None:
            chats = work / "chats.jsonl"
            encode.made_up(chats, args.limit)
        conversations = encode.take(chats, args.limit)
        ours_in_theirs(conversations, work, args.tokenizer.absolute(), python, args.steps)
        theirs_in_ours(conversations, work, args.tokenizer.absolute(), python)


def ours_in_theirs(conversations: list[dict], work: Path, tokenizer: Path, python: Path, num_steps: int) -> None:
    for number, conversation in enumerate(conversations):
        conversation["condition"] = "GPT3" if number % 3 == 0 else "GPT4"
    encode.run(encode.our_command(conversations, work, tokenizer, "split"))
    dataset = open_dataset(work / "split.train.parquet")
    rows = [dataset.row(index) for index in range(len(dataset))]
    np.savez(
        work / "expected.npz",
        lengths=dataset.lengths,
        ids=np.concatenate([row.input_ids for row in rows]),
        labels=np.concatenate([row.labels for row in rows]),
        weights=np.concatenate([row.loss_weights for row in rows]),
    )
    inside = [str(HERE / "inside_ochat.py"), str(work / "split"), str(work / "expected.npz"), str(num_steps)]
    text = encode.run([str(python), "-W", "ignore", *inside])[2]
    report = json.loads(text.splitlines()[-1])
    batches, training, losses = report["batches"], report["training"], report["training"]["losses"]
    lines = {
        "ParquetDataset": f"{report['rows']:,} rows, each value as ours; {report['metadata']}",
        "Multipack and its collate": f"{batches['batches']:,} batches on {batches['ranks']} ranks hold "
        f"{batches['rows']:,} rows, each value as ours; ochat itself drops {batches['dropped_rows']}",
        "loss of a packed batch": f"{training['packed_loss']:.5f} in its unpadded Llama, "
        f"{training['one_by_one_loss']:.5f} in transformers', sequence by sequence",
        f"{len(losses)} training steps": f"loss {losses[0]} -> {losses[-1]} (uniform: {training['uniform']})",
    }
    print("\na file of `ochatctl data pack` in ochat 3.2.2")
    for label, value in lines.items():
        print(f"  {label:26} {value}")


def theirs_in_ours(conversations: list[dict], work: Path, tokenizer: Path, python: Path) -> None:
    encode.run(encode.ochat_command(conversations, work, tokenizer, python))
    prefix = str(work / "ochat")
    print("\na file of ochat 3.2.2's generate_dataset in ochatctl")
    commands = {
        "data verify": ["data", "verify", prefix, "--model", str(tokenizer), "--family", "openchat_v3.2"],
        "data stats": ["data", "stats", prefix, "--model", str(tokenizer), "--family", "openchat_v3.2"],
        "data inspect": ["data", "inspect", prefix, "--row", "1", "--model", str(tokenizer)],
        "data plan": ["data", "plan", prefix, "--gpus", "2", "--batch-tokens", "4096"],
    }
    for name, command in commands.items():
        done = subprocess.run([*encode.OCHATCTL, *command, "--json"], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{name} ended with exit code {done.returncode}:\n{done.stdout}{done.stderr}")
        print(f"  {name:26} {told(name, json.loads(done.stdout))}")


def told(name: str, report: dict) -> str:
    if name == "data verify":
        skipped = [law["name"] for law in report["laws"] if law["status"] != "ok"]
        return f"{len(report['laws']) - len(skipped)} laws kept, not told by the file: {', '.join(skipped)}"
    if name == "data stats":
        classes = {key: value["num_rows"] for key, value in report["conditions"].items()}
        return f"{report['num_rows']:,} rows, {report['num_tokens']:,} tokens, conditions {classes}"
    if name == "data inspect":
        return f"row {report['row']}: {len(report['token_ids']):,} tokens"
    return f"{report['steps']} steps, {report['dropped']} rows dropped"


if __name__ == "__main__":
    main()
