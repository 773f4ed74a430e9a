"""Where a run takes place, and in which precision."""

import pytest

from ochatctl.memory import Gpu
from ochatctl.train.place import choose_precision


def gpu(capability: str) -> Gpu:
    return Gpu(index=0, name="Tesla V100", total_bytes=1, free_bytes=1, driver="550", compute_capability=capability)


@pytest.mark.parametrize(
    ("device", "capabilities", "dtype"),
    [
        ("cpu", ["9.0"], "float32"),
        ("cuda", ["9.0", "8.0"], "bfloat16"),
        ("cuda", [], "bfloat16"),
        ("cuda", [""], "bfloat16"),
        ("cuda", ["8.6", "7.5"], "float32"),
    ],
)
def test_bfloat16_is_taken_where_every_gpu_has_it(device: str, capabilities: list[str], dtype: str) -> None:
    notes: list[str] = []
    assert choose_precision(device, [gpu(capability) for capability in capabilities], notes) == dtype
    assert [note for note in notes if "Tesla V100" in note] == notes
    assert bool(notes) == (device == "cuda" and dtype == "float32")
