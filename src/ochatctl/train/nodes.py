"""What must be alike on the nodes of one run: what they were asked for, and the folder that they write into."""

import secrets
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch.distributed as dist

from ochatctl.config import to_table
from ochatctl.errors import ConfigError, EnvironmentProblem
from ochatctl.train.config import ASKED_AS, TrainConfig
from ochatctl.train.ranks import Ranks

# Each node has its own place for these, or makes nothing of them.
_OWN_KEYS = {"node_rank", "model_dir", "data_path", "eval_path", "num_threads", "resume_from", "grace_seconds"}


def agree(config: TrainConfig, ranks: Ranks) -> TrainConfig:
    """Give the config with the checkpoint that the first rank goes on from. One node agrees with itself.

    Raises:
        ConfigError: a node was started with other values; names them.
        EnvironmentProblem: the nodes do not share the output folder.
    """
    if config.num_nodes == 1:
        return config
    tables: list[dict[str, Any]] = [{}] * ranks.num_ranks
    dist.all_gather_object(tables, to_table(config))
    first = tables[0]
    for table in tables:
        changed = [key for key in first if table.get(key) != first[key] and key not in _OWN_KEYS]
        if changed:
            named = ", ".join(f"`{ASKED_AS.get(key, key)}` ({first[key]} and {table.get(key)})" for key in changed)
            raise ConfigError(
                f"node {table['node_rank']} was started with other values than node 0: {named}",
                hint="the same flags on every node, but for `--node-rank`",
            )
    _check_shared(config.out_dir, ranks)
    resume_from = first["resume_from"]
    return replace(config, resume_from=None if resume_from is None else Path(resume_from))


def _check_shared(out_dir: Path, ranks: Ranks) -> None:
    """Have the first rank write a file that all must see: each rank writes its shards into the one folder."""
    names = [""] * ranks.num_ranks
    own = f".seen-by-all-{secrets.token_hex(4)}" if ranks.is_first else ""
    if ranks.is_first:
        (out_dir / own).touch()
    dist.all_gather_object(names, own)
    sees = [False] * ranks.num_ranks
    dist.all_gather_object(sees, (out_dir / names[0]).exists())
    if ranks.is_first:
        (out_dir / own).unlink()
    if not all(sees):
        blind = ", ".join(str(rank) for rank, each in enumerate(sees) if not each)
        raise EnvironmentProblem(
            f"ranks {blind} do not see what rank 0 writes into `{out_dir}`",
            hint="`--out` must be one folder on a disk that all nodes share, under the same path",
        )
