"""The strings of `lora` and `rope_scaling`."""

import pytest

from ochatctl.errors import ConfigError
from ochatctl.train.settings import read_request
from ochatctl.train.spec import LoraSpec, RopeScaling, read_lora, read_rope_scaling


def test_an_adapter_is_read_with_what_is_left_out() -> None:
    assert read_lora("r=8,alpha=16") == LoraSpec(r=8, alpha=16.0)
    assert read_lora("r=4, dropout=0.1, targets=q_proj+v_proj").targets == "q_proj+v_proj"


def test_rope_scaling_is_read() -> None:
    assert read_rope_scaling("linear:2") == RopeScaling(kind="linear", factor=2.0)
    assert read_rope_scaling("dynamic") == RopeScaling(kind="dynamic")


@pytest.mark.parametrize(
    "text",
    ["lora=r", "lora=rank=8", "lora=r=0", "lora=r=x", "rope_scaling=linear", "rope_scaling=yarn:0.5",
     "rope_scaling=ntk:2", "rope_scaling=linear:x", "rope_scaling=yarn:nan"],
)  # fmt: skip
def test_anything_else_is_refused_where_the_request_is_read(text: str) -> None:
    with pytest.raises(ConfigError, match=r"lora|rope_scaling"):
        read_request(sets=(text,))
