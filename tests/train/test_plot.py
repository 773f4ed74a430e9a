"""`metrics.jsonl` -> a PNG."""

import json
import math
import re
from pathlib import Path

import pytest

from ochatctl.errors import DataError
from ochatctl.train.plot import plot_runs, read_metrics
from ochatctl.train.records import METRICS_FILE, METRICS_FORMAT, METRICS_VERSION


def write_run(run_dir: Path, *, num_steps: int = 40, cut: bool = False, version: int = METRICS_VERSION) -> Path:
    lines = [json.dumps({"format": METRICS_FORMAT, "version": version})]
    for step in range(1, num_steps + 1):
        table = {
            "step": step,
            "loss": 3 / math.sqrt(step),
            "lr": 1e-5 * step,
            "grad_norm": 1.0,
            "tokens_per_second": 9e3,
        }
        lines.append(json.dumps(table))
    text = "\n".join(lines) + "\n"
    run_dir.mkdir(parents=True)
    (run_dir / METRICS_FILE).write_text(text[:-20] if cut else text, encoding="utf-8")
    return run_dir


def test_two_runs_are_drawn_into_one_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    runs = [write_run(tmp_path / "a"), write_run(tmp_path / "b", num_steps=7)]
    result = plot_runs(runs, tmp_path / "out.png")
    assert list(result.runs.values()) == [40, 7]
    picture = (tmp_path / "out.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 20_000


def test_a_line_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    assert len(read_metrics(write_run(tmp_path / "a", cut=True)).steps) == 39


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format": "other", "version": 1}\n', "not a file of metrics of ours"),
        (f'{{"format": "{METRICS_FORMAT}", "version": 99}}\n', "metrics version 99, and this ochatctl reads up to"),
        (f'{{"format": "{METRICS_FORMAT}", "version": 1}}\n', "no step has been taken yet"),
        (f'{{"format": "{METRICS_FORMAT}", "version": 1}}\nnonsense\n{{}}\n', ":2: not valid JSON"),
    ],
)
def test_what_is_no_run_of_ours_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / METRICS_FILE).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=re.escape(message)):
        read_metrics(tmp_path)


def test_a_folder_without_metrics_says_which_folder_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file") as caught:
        read_metrics(tmp_path)
    assert "train --out" in caught.value.hint
