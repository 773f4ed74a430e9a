"""Reading a packed dataset as the trainer does: memory a process, rows a second, the time to open.

Writes a set of made-up rows as long as OpenChat's, opens it in a process of its own, reads random rows, and samples the
process's anonymous memory: what is mapped from the file belongs to the page cache, which all ranks share. Rates are of
processor time, so that a busy machine does not change them. 15 GB take 3 minutes of a core to write, and 5 GB of disk.
Linux only.

    python benchmarks/read.py                     3 GB decoded
    python benchmarks/read.py --gb 15             as large as issue 160 of OpenChat speaks of
    python benchmarks/read.py --rows 1000000      a million short rows: the time to open
"""

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from ochatctl.data.dataset import DatasetInfo, open_dataset, write_dataset
from ochatctl.data.encode import Row

NUM_READ = 3000
# ids, labels and weights, four bytes each
DECODED_BYTES_PER_TOKEN = 12
NEEDED_TOKENS_PER_SECOND = 60_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=3.0, help="decoded size, 12 bytes a token (10^9 bytes)")
    parser.add_argument("--rows", type=int, default=0, help="instead: so many rows of about 60 tokens")
    parser.add_argument("--dir", help="where the file is written (and removed); default: the system's")
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.read:
        print(json.dumps(read(args.read)))
        return
    with tempfile.TemporaryDirectory(dir=args.dir) as name:
        path = Path(name) / "made.train.parquet"
        started = time.process_time()
        num_tokens, num_rows = write(path, args.gb, args.rows)
        written = time.process_time() - started
        done = subprocess.run(
            [sys.executable, __file__, "--read", str(path)], stdout=subprocess.PIPE, text=True, check=True
        )
        size_bytes = path.stat().st_size
    report = json.loads(done.stdout)
    decoded_gb = num_tokens * DECODED_BYTES_PER_TOKEN / 1e9
    share = NEEDED_TOKENS_PER_SECOND / report["tokens_per_second"]
    print(f"{datetime.date.today()}: {num_rows:,} rows, {num_tokens:,} tokens, {decoded_gb:.1f} GB decoded")
    print(f"on disk                   {size_bytes / 1e9:8.2f} GB in {report['groups']:,} row groups")
    print(f"written                   {num_tokens / written / 1e6:8.1f} million tokens/s")
    print(f"open                      {report['open_seconds']:8.2f} s of processor time")
    print(f"anonymous, imports        {report['imports_bytes'] / 1e6:8.0f} MB")
    print(f"anonymous, opened         {report['opened_bytes'] / 1e6:8.0f} MB")
    print(f"anonymous, {NUM_READ} rows read {report['read_bytes'] / 1e6:8.0f} MB")
    print(f"random rows               {report['rows_per_second']:8,.0f} rows/s")
    print(f"                          {report['tokens_per_second']:8,.0f} tokens/s")
    print(f"of one core, at {NEEDED_TOKENS_PER_SECOND:,}   {share:8.1%}")


def write(path: Path, gb: float, short_rows: int) -> tuple[int, int]:
    """Write rows whose ids compress about as text's do."""
    draw = np.random.default_rng(0)
    # Zipf's law over a vocabulary of Llama's size: frequent tokens are very frequent.
    pool = (32_000 * draw.random(1 << 22) ** 4).astype(np.int32)
    wanted, num_tokens, num_rows = gb * 1e9 / DECODED_BYTES_PER_TOKEN, 0, 0
    with write_dataset(path) as writer:
        while num_rows < short_rows if short_rows else num_tokens < wanted:
            length = 60 if short_rows else int(np.clip(draw.lognormal(6.9, 1.0), 40, 4096))
            start = int(draw.integers(len(pool) - length))
            ids = pool[start : start + length]
            weights = np.zeros(length, dtype=np.float32)
            weights[length // 3 : -1] = 1
            labels = np.full(length, -100, dtype=np.int32)
            labels[:-1] = np.where(weights[:-1] > 0, ids[1:], -100)
            writer.add(Row(input_ids=ids, labels=labels, loss_weights=weights))
            num_tokens += length
            num_rows += 1
        writer.finish(DatasetInfo(model_type="openchat_v3.2"))
    return num_tokens, num_rows


def read(path: Path) -> dict[str, float]:
    imports = anonymous_bytes()
    started = time.process_time()
    dataset = open_dataset(path)
    opened = time.process_time() - started
    opened_bytes = anonymous_bytes()
    chosen = np.random.default_rng(1).integers(len(dataset), size=NUM_READ)
    started = time.process_time()
    tokens = sum(len(dataset.row(int(index)).input_ids) for index in chosen)
    seconds = time.process_time() - started
    return {
        "imports_bytes": imports, "opened_bytes": opened_bytes, "read_bytes": anonymous_bytes(),
        "open_seconds": opened, "rows_per_second": NUM_READ / seconds, "tokens_per_second": tokens / seconds,
        "groups": dataset.num_row_groups,
    }  # fmt: skip


def anonymous_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


if __name__ == "__main__":
    main()
