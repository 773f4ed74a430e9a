"""Run one packer on given lengths, in the environment that it is installed in; `packing.py` starts it.

    python packing_worker.py NAME FOLDER LENGTHS.npy RANKS CONTEXT CONTEXTS_PER_BIN OUT.json

Writes {"steps": [[[row, ...] for each rank] for each step], "start_seconds", "seconds"}: the CPU time from the start of
Python to the end of a plan for 500 rows (imports and just-in-time compilation), and that of the plan of all rows after
it. CPU time, since all of them use one thread, and a shared machine stretches any other. Each peer is called as its own
trainer calls it; of its package only the packer's file is loaded, and what else that file imports is replaced by empty
modules.
"""

import importlib.util
import json
import sys
import time
import types
from pathlib import Path
from typing import Any

import numpy as np

SEED = 1
Steps = list[list[list[int]]]


def main() -> None:
    name, folder, file, ranks, context, contexts, out = sys.argv[1:]
    lengths = np.load(file)
    packer = {"ours": Ours, "ochat-3.2.2": Ochat, "ochat-3.6.1": Ochat, "trl": Trl, "axolotl": Axolotl}[name](
        Path(folder), name, int(ranks), int(context), int(contexts)
    )
    packer.plan(lengths[:500])
    started = time.process_time()
    packer.plan(lengths)
    done = time.process_time()
    result = {"steps": packer.steps(lengths), "start_seconds": started, "seconds": done - started}
    Path(out).write_text(json.dumps(result))


class Packer:
    """`plan` is what is timed: what one rank does before an epoch. `steps` gives the bins of all ranks."""

    def __init__(self, folder: Path, name: str, ranks: int, context: int, contexts: int) -> None:
        self.folder, self.name = folder, name
        self.ranks, self.context, self.contexts = ranks, context, contexts
        self.bin_tokens = context * contexts
        self.load()

    def load(self) -> None: ...

    def plan(self, lengths: Any) -> Any:
        raise NotImplementedError

    def steps(self, lengths: Any) -> Steps:
        raise NotImplementedError


class Ours(Packer):
    def load(self) -> None:
        from ochatctl.data.packing import plan_epoch

        self.plan_epoch = plan_epoch

    def plan(self, lengths: Any) -> Any:
        return self.plan_epoch(lengths, bin_tokens=self.bin_tokens, bins_per_step=self.ranks, seed=SEED, epoch=0)

    def steps(self, lengths: Any) -> Steps:
        return [[list(rows) for rows in step] for step in self.plan(lengths).steps]


class Ochat(Packer):
    """Each rank plans all, and keeps its own bins."""

    def load(self) -> None:
        stubs("torch.distributed")
        file = "multipack_dataloader.py" if self.name.endswith("3.2.2") else "multipack_sampler.py"
        self.module = load_file(self.folder / "ochat" / "training_deepspeed" / file)

    def of_rank(self, lengths: Any, rank: int) -> list[Any]:
        weights = np.ones(len(lengths), dtype=np.float32)
        if self.name.endswith("3.2.2"):
            loader = self.module.MultipackDistributedDataloader(
                None, lengths, weights, self.bin_tokens, None, self.ranks, rank, SEED
            )
            return list(loader.generate_batches()[0])
        sampler = self.module.MultipackDistributedSampler(lengths, weights, self.bin_tokens, self.ranks, rank, SEED)
        return list(sampler.generate_batches(0)[0])

    def plan(self, lengths: Any) -> Any:
        return self.of_rank(lengths, 0)

    def steps(self, lengths: Any) -> Steps:
        ranks = [self.of_rank(lengths, rank) for rank in range(self.ranks)]
        return [[bins.tolist() for bins in step] for step in zip(*ranks, strict=True)]


class Trl(Packer):
    """`pack_dataset` maps batches of 1,000 rows to packed rows of one context; a rank's batch is some of those.

    The last step is kept though it is not full: accelerate completes it with rows that it has seen.
    """

    def load(self) -> None:
        stubs("datasets", "transformers")
        self.module = load_file(self.folder / "trl" / "data_utils.py")

    def plan(self, lengths: Any) -> Any:
        import pyarrow as pa

        packed = []
        for start in range(0, len(lengths), 1000):
            part = lengths[start : start + 1000]
            # It moves tokens as well: of one byte, so that nearly all of its time is the packing.
            offsets = np.concatenate([[0], np.cumsum(part)]).astype(np.int32)
            tokens = np.zeros(offsets[-1], dtype=np.int8)
            table = pa.table({"input_ids": pa.ListArray.from_arrays(offsets, tokens)})
            packed.append(self.module._pack_bfd(table, self.context))
        return packed

    def steps(self, lengths: Any) -> Steps:
        rows: list[list[int]] = []
        for number, table in enumerate(self.plan(lengths)):
            # What comes back are lengths; which of the rows of a length it was makes no difference here.
            waiting: dict[int, list[int]] = {}
            for row in range(number * 1000, min((number + 1) * 1000, len(lengths))):
                waiting.setdefault(int(lengths[row]), []).append(row)
            rows += [[waiting[length].pop() for length in parts] for parts in table["seq_lengths"].to_pylist()]
        order = np.random.default_rng(SEED).permutation(len(rows))
        bins = [
            [row for packed in order[start : start + self.contexts] for row in rows[packed]]
            for start in range(0, len(order), self.contexts)
        ]
        bins += [[]] * (-len(bins) % self.ranks)
        return [bins[start : start + self.ranks] for start in range(0, len(bins), self.ranks)]


class Axolotl(Packer):
    """Groups of 100,000 rows in random order, at most 200 rows a bin; bins are dealt, an incomplete step is dropped."""

    def load(self) -> None:
        stubs("torch.utils.data", "axolotl.utils.distributed", "axolotl.utils.logging")
        self.module = load_file(self.folder / "axolotl" / "utils" / "samplers" / "multipack.py")

    def plan(self, lengths: Any) -> Any:
        order = np.random.default_rng(SEED).permutation(len(lengths))
        ordered = lengths[order].astype(np.int32)
        bins = []
        for start in range(0, len(order), 100_000):
            part = ordered[start : start + 100_000]
            bins += self.module.pack_group(part, start, self.bin_tokens, len(part), 200, True)
        return [order[rows].tolist() for rows in bins]

    def steps(self, lengths: Any) -> Steps:
        bins = self.plan(lengths)
        return [bins[at : at + self.ranks] for at in range(0, len(bins) - self.ranks + 1, self.ranks)]


def load_file(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Anything:
    """Stands for what a replaced module is asked for: a base class, a decorator's argument, a logger."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __class_getitem__(cls, item: Any) -> Any:
        return cls


class Stub(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (Anything,), {})


def stubs(*names: str) -> None:
    """Let a packer be imported alone: what its package imports beside it, and it does not call, needs a GPU."""
    for name in names:
        parts = name.split(".")
        for depth in range(1, len(parts) + 1):
            module = Stub(".".join(parts[:depth]))
            module.__path__ = []  # type: ignore[attr-defined]
            sys.modules.setdefault(module.__name__, module)
            if depth > 1:
                setattr(sys.modules[".".join(parts[: depth - 1])], parts[depth - 1], sys.modules[module.__name__])


if __name__ == "__main__":
    main()
