"""Records cross the ranks' output whole, among whatever else is printed there."""

import pytest

from ochatctl.train.records import Failed, Saved, Started, Stepped, StopAsked, from_line, to_line

RECORDS = [
    Started(strategy="fsdp", num_parameters=3, num_steps=2),
    Stepped(step=1, num_steps=2, epoch=1, num_epochs=1, loss=1.5, lr=1e-3, grad_norm=2.0, tokens=7,
            tokens_per_second=70.0, seconds=0.1),
    Saved(epoch=1, path="out/ep_1"),
    StopAsked(signal="SIGTERM", grace_seconds=1.5),
    Failed(rank=1, kind="RunError", message="the loss is nan\nat “step” 2", hint=""),
]  # fmt: skip


@pytest.mark.parametrize("record", RECORDS)
def test_a_record_is_one_line_and_comes_back(record: object) -> None:
    line = to_line(record)  # type: ignore[arg-type]  # parametrize loses the type
    assert line.count("\n") == 1
    assert from_line(line) == record


@pytest.mark.parametrize(
    "line",
    ["", "loss 3.2\n", "{}\n", '{"ochatctl": "Stepped"}\n', '{"ochatctl": "Ended"}\n', '{"ochatctl":\n'],
)
def test_any_other_line_is_left_to_the_log(line: str) -> None:
    assert from_line(line) is None
