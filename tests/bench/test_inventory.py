"""What there is: data sets, and runs that are scored, begun or damaged."""

from pathlib import Path

import pytest

from ochatctl.bench.inventory import inventory
from ochatctl.bench.journal import Journal, Record
from ochatctl.bench.results import Question, Result, write_result

RESULT = Result(
    suite="suite",
    model="ours",
    measure="accuracy",
    unit="ratio",
    questions=(Question(id="a:1", group="a", scores={"1": 1.0}, status="scored"),),
)


def test_runs_are_scored_begun_or_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCHATCTL_CACHE", str(tmp_path / "cache"))
    runs = tmp_path / "runs"
    assert inventory(runs).runs == ()
    for name in ("scored", "begun", "damaged"):
        with Journal(runs / name / "journal.jsonl", {"suite": "suite"}) as journal:
            journal.append(Record(id="a:1", text="b"))
    write_result(runs / "scored", RESULT)
    write_result(runs / "damaged", RESULT).write_text("{}\n")
    found = inventory(runs)
    assert [(run.path.name, run.model, run.score) for run in found.runs] == [("scored", "ours", "100.0 %")]
    assert ([run.name for run in found.unscored], found.num_unreadable) == (["begun"], 1)
    assert not any(dataset.is_here for dataset in found.datasets)
