"""What `ochatctl train` says of how a run ended can be typed as it stands."""

import shlex
from pathlib import Path

from ochatctl.cli.train_output import describe_end
from ochatctl.train.launch import TrainResult


def test_the_next_command_survives_a_space_in_its_path() -> None:
    model = Path("/my runs/first/ep_1")
    result = TrainResult(
        out_dir=model.parent, num_steps=3, first_loss=3.0, last_loss=2.0, seconds=1.0, tokens_per_second=5.0,
        checkpoints=(model,),
    )  # fmt: skip
    last = describe_end(result, "ochatctl train").splitlines()[-1]
    assert shlex.split(last.removeprefix("go on with: ")) == ["ochatctl", "chat", "--model", str(model)]
