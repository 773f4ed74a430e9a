"""Where a run takes place, and in which precision."""

import pytest
import torch

from ochatctl.errors import ConfigError, EnvironmentProblem
from ochatctl.memory import Gpu
from ochatctl.train.place import choose_precision, choose_strategy, place
from ochatctl.train.request import TrainRequest


def gpu(capability: str) -> Gpu:
    return Gpu(index=0, name="Tesla V100", total_bytes=1, free_bytes=1, driver="550", compute_capability=capability)


@pytest.mark.parametrize(
    ("device", "capabilities", "dtype"),
    [
        ("cpu", ["9.0"], "float32"),
        ("cuda", ["9.0", "8.0"], "bfloat16"),
        ("cuda", [], "bfloat16"),
        ("cuda", [""], "bfloat16"),
        ("cuda", ["8.6", "7.5"], "float16"),
        ("mps", [], "float32"),
    ],
)
def test_bfloat16_is_taken_where_every_gpu_has_it(device: str, capabilities: list[str], dtype: str) -> None:
    notes: list[str] = []
    assert choose_precision(device, [gpu(capability) for capability in capabilities], notes, asked="auto") == dtype
    assert bool(notes) == (device == "mps" or dtype == "float16"), "said aloud, and only then"
    assert all("Tesla V100" in note or "Apple" in note for note in notes)


def test_a_precision_that_the_device_lacks_is_refused() -> None:
    with pytest.raises(ConfigError, match="Tesla V100 is older"):
        choose_precision("cuda", [gpu("7.0")], [], asked="bfloat16")
    with pytest.raises(ConfigError, match="Apple's GPU"):
        choose_precision("mps", [], [], asked="float16")
    assert choose_precision("cuda", [gpu("7.0")], [], asked="float32") == "float32"


def test_cuda_comes_before_apples_gpu_and_that_trains_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    notes: list[str] = []
    assert place(TrainRequest(), notes) == ("mps", 1)
    assert choose_strategy(TrainRequest(), notes, device="mps") == "fsdp"
    assert place(TrainRequest(cpu=True, gpus=2), notes) == ("cpu", 2)
    with pytest.raises(EnvironmentProblem, match="trains alone"):
        place(TrainRequest(gpus=2), notes)
    with pytest.raises(ConfigError, match="DeepSpeed does not run"):
        choose_strategy(TrainRequest(zero=2), notes, device="mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert place(TrainRequest(), notes) == ("cuda", 4)
    assert notes[-1] == "training on all 4 GPUs that are visible"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert place(TrainRequest(), notes) == ("cuda", 1)
    assert notes[-1] == "training on the one GPU that is visible"
