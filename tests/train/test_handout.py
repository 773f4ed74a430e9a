"""One rank reads the base, and the others are given their shares: what memory that takes, and that nothing is lost."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from training_for_tests import tiny_config, write_base

from ochatctl.config import write_run
from ochatctl.train.config import OptimConfig, TrainConfig

NUM_RANKS = 2
# Left to itself, glibc keeps what was given back to it in the holes of a heap: of one and the same run it then shows
# anything between 0.6 and 0.8 of the model. With a fixed threshold each tensor is a mapping of its own.
QUIET = {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": str(64 << 10)}


def spread(folder: Path, base: Path, **changes: Any) -> tuple[list[int], dict[str, torch.Tensor]]:
    """Spread a model over ranks; give by how much each has grown at its peak, and the weights gathered again."""
    values: dict[str, Any] = {
        "model_dir": base, "data_path": folder / "absent", "out_dir": folder, "family": None, "device": "cpu",
        "dtype": "float32", "num_ranks": NUM_RANKS, "num_epochs": 1, "batch_tokens": 64, "optim": OptimConfig(lr=1e-3),
    }  # fmt: skip
    write_run(folder / "run.json", TrainConfig(**(values | changes)))
    launcher = ["-m", "torch.distributed.run", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0",
                "--local-addr=localhost", f"--nproc-per-node={NUM_RANKS}"]  # fmt: skip
    script = str(Path(__file__).with_name("measure_loading.py"))
    done = subprocess.run(
        [sys.executable, *launcher, script, str(folder / "run.json"), str(folder)],
        env={**os.environ, **QUIET, "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    grown = [json.loads((folder / f"rank_{rank}.json").read_text()) for rank in range(NUM_RANKS)]
    return grown, torch.load(folder / "state.pt", weights_only=True)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a model of 137 MB in 10 layers, whose output layer is its embeddings."""
    sizes = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 10, "num_attention_heads": 8}
    config = tiny_config(**sizes, num_key_value_heads=8, head_dim=64, tie_word_embeddings=True)
    folder: Path = write_base(tmp_path_factory.mktemp("handout") / "base", config=config)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [{"strategy": "fsdp"}, {"strategy": "deepspeed", "zero_stage": 3}])
def test_a_rank_that_does_not_read_holds_its_share_and_what_is_on_the_way(
    strategy: dict[str, Any], base: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    if strategy["strategy"] == "deepspeed":
        pytest.importorskip("deepspeed")
    if not Path("/proc/self/status").is_file():
        pytest.skip("only Linux tells a process its peak")
    grown, state = spread(tmp_path, base, **strategy)
    whole = load_file(base / "model.safetensors")
    size = sum(value.nbytes for value in whole.values())
    assert size > 130e6, "in groups, layer by layer, and far above what else grows"
    # Half of it is the rank's own, and a tenth a layer on its way; 0.62 and 0.69 were measured.
    assert 0.5 * size < grown[1] < 0.75 * size
    assert grown[0] > 0.9 * size, "nobody has read the model"
    for name, value in whole.items():
        assert torch.equal(state[name], value), name
    tied = state.get("lm_head.weight")
    assert tied is None or torch.equal(tied, state["model.embed_tokens.weight"])
