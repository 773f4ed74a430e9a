"""When to evaluate, and on what."""

from pathlib import Path

import numpy as np
import pytest
from training_for_tests import write_base, write_data

from ochatctl.data.dataset import split_path
from ochatctl.errors import ConfigError, DataError
from ochatctl.train.eval_every import EvalPlan, plan_eval, read_eval_every
from ochatctl.train.evaluation import plan_evaluation
from ochatctl.train.request import TrainRequest


@pytest.mark.parametrize(
    ("text", "meant"),
    [("500", (500, None)), ("1step", (1, None)), ("20steps", (20, None)), ("2epochs", (None, 2)), ("no", (None, None))],
)
def test_a_time_to_evaluate_at_is_read(text: str, meant: tuple[int | None, int | None]) -> None:
    assert read_eval_every(text) == meant


@pytest.mark.parametrize("text", ["", "0", "0epochs", "30m", "-1", "1.5epochs", "epoch"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no time to evaluate at"):
        read_eval_every(text)


def test_held_out_rows_beside_the_data_are_found_and_missing_ones_matter_only_where_asked_for(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    train = split_path(write_data(tmp_path / "chats", base, num_rows=2), "train")
    notes: list[str] = []
    assert plan_eval(TrainRequest(), train, base, notes) == EvalPlan()
    for asked in (TrainRequest(eval_every="5"), TrainRequest(eval_data=str(tmp_path / "other"))):
        with pytest.raises(DataError, match=r"eval\.parquet: no such file to evaluate on") as caught:
            plan_eval(asked, train, base, notes)
        assert "--eval-ratio" in (caught.value.hint or "")
    held_out = split_path(tmp_path / "chats", "eval")
    train.with_name("copy").write_bytes(train.read_bytes())
    train.with_name("copy").rename(held_out)
    assert plan_eval(TrainRequest(), train, base, notes) == EvalPlan(path=held_out, every_epochs=1)
    assert plan_eval(TrainRequest(eval_every="5"), train, base, notes) == EvalPlan(path=held_out, every_steps=5)
    assert plan_eval(TrainRequest(eval_every="no"), train, base, notes) == EvalPlan()
    named = TrainRequest(eval_data=str(held_out))
    assert plan_eval(named, train.with_name("else.parquet"), base, notes).path == held_out
    assert notes[:2] == [
        f"evaluating {each} on 2 rows of `chats.eval.parquet`" for each in ("each epoch", "every 5 steps")
    ]


@pytest.mark.parametrize("num_rows", [1, 2, 3, 40])
def test_the_plan_takes_each_row_once_with_a_bin_for_every_rank(num_rows: int) -> None:
    lengths = np.random.default_rng(0).integers(5, 90, num_rows)
    steps = plan_evaluation(lengths, bin_tokens=64, num_ranks=3)
    assert steps == plan_evaluation(lengths, bin_tokens=64, num_ranks=3)
    assert all(len(bins) == 3 for bins in steps)
    assert sorted(row for bins in steps for rows in bins for row in rows) == list(range(num_rows))
    # A row that is longer than a training batch is evaluated all the same.
    assert all(lengths[list(rows)].sum() <= max(64, lengths.max()) for bins in steps for rows in bins)
