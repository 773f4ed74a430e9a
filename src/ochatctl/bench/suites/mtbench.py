"""MT-bench's questions, asked as FastChat asks them; the answers in FastChat's file, for a judge to read.

in: FastChat's question rows and a target, out: `journal.jsonl` and `model_answer/NAME.jsonl`

Source: lm-sys/FastChat, `fastchat/llm_judge/gen_api_answer.py` and `common.py` (temperatures, file format).
"""

import asyncio
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ochatctl.bench.journal import Record
from ochatctl.bench.run import RunConfig, run_dialogues
from ochatctl.bench.runner import Dialogue, Watch
from ochatctl.chat.conversation import check_text
from ochatctl.engine.client import Ask
from ochatctl.errors import DataError
from ochatctl.files import atomic_file, read_jsonl

TEMPERATURES = {
    "writing": 0.7,
    "roleplay": 0.7,
    "extraction": 0.0,
    "math": 0.0,
    "coding": 0.0,
    "reasoning": 0.0,
    "stem": 0.1,
    "humanities": 0.1,
    "arena-hard-200": 0.0,
}
OTHER_TEMPERATURE = 0.7


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A FastChat question. `temperature` is its category's, or its own `required_temperature`."""

    question_id: int | str
    category: str
    turns: tuple[str, ...]
    temperature: float
    reference: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class MtBenchAnswers:
    """Where the answers are. A question whose requests failed is not among them; without a judge there is no score."""

    model: str
    journal: Path
    answers: Path
    num_questions: int
    num_answered: int
    errors: tuple[str, ...]


def run_mtbench(questions_path: Path, config: RunConfig, watch: Watch) -> MtBenchAnswers:
    """Ask every turn once, at its category's temperature, and write the answers in FastChat's format.

    Raises:
        UsageProblem: the journal in `out_dir` belongs to other questions or settings.
        RemoteError, RunError: nothing answers.
    """
    questions = read_questions(questions_path)
    asked = questions[: config.limit]
    dialogues = [
        Dialogue(id=str(question.question_id), turns=question.turns, ask=Ask(temperature=question.temperature))
        for question in asked
    ]
    run = asyncio.run(run_dialogues("mtbench", {"questions": _digest(questions)}, dialogues, config, watch))
    rows = list(_answer_rows(asked, run.records, run.model))
    path = run.out_dir / "model_answer" / f"{run.slug}.jsonl"
    with atomic_file(path) as part:
        part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    wanted = {str(question.question_id) for question in asked}
    return MtBenchAnswers(
        model=run.model,
        journal=run.journal,
        answers=path,
        num_questions=len(asked),
        num_answered=len(rows),
        errors=tuple(f"{r.id}, turn {r.turn}: {r.error}" for r in run.records if r.error and r.id in wanted),
    )


def read_questions(path: Path) -> tuple[Question, ...]:
    """Read FastChat's `question.jsonl`; keys that it does not need are passed over.

    Raises:
        DataError: names `file:line`.
    """
    questions = tuple(_question(value, where) for where, value in list(read_jsonl(path)))
    ids = [question.question_id for question in questions]
    twice = sorted({str(question_id) for question_id in ids if ids.count(question_id) > 1})
    if twice:
        raise DataError(f"{path}: two questions have the `question_id` {', '.join(f'`{one}`' for one in twice)}")
    if not questions:
        raise DataError(f"{path}: no question in it")
    return questions


def _digest(questions: Sequence[Question]) -> str:
    text = json.dumps([asdict(question) for question in questions], sort_keys=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _answer_rows(questions: Iterable[Question], records: Iterable[Record], model: str) -> Iterable[dict[str, Any]]:
    """Give FastChat's rows of the questions whose every turn was answered, in the order of the questions."""
    by_turn = {(record.id, record.turn): record for record in records}
    for question in questions:
        key = str(question.question_id)
        answers = [by_turn.get((key, turn)) for turn in range(1, len(question.turns) + 1)]
        done = [record for record in answers if record is not None and record.text is not None]
        if len(done) < len(question.turns):
            continue
        turns = [record.text for record in done]
        yield {
            "question_id": question.question_id,
            # FastChat draws a random one; this is the same for the same answer.
            "answer_id": hashlib.sha256(json.dumps([model, key, turns]).encode("ascii")).hexdigest()[:22],
            "model_id": model,
            "choices": [{"index": 0, "turns": turns}],
            "tstamp": done[-1].time,
        }


def _question(value: Any, where: str) -> Question:
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected a JSON object, found `{type(value).__name__}`")
    question_id, category = value.get("question_id"), value.get("category")
    if isinstance(question_id, bool) or not isinstance(question_id, (int, str)):
        raise DataError(f"{where}: `question_id` must be a number or a string, found `{question_id}`")
    if not isinstance(category, str):
        raise DataError(f"{where}: `category` must be a string, found `{category}`")
    temperature = value.get("required_temperature", TEMPERATURES.get(category, OTHER_TEMPERATURE))
    if isinstance(temperature, bool) or not isinstance(temperature, (int, float)) or not 0 <= temperature <= 2:
        raise DataError(f"{where}: `required_temperature` is `{temperature}`, not a number from 0 to 2")
    return Question(
        question_id=question_id,
        category=category,
        turns=_texts(value.get("turns"), "turns", where),
        temperature=float(temperature),
        reference=_texts(value["reference"], "reference", where) if value.get("reference") else (),
    )


def _texts(value: Any, key: str, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(text, str) for text in value):
        raise DataError(f"{where}: `{key}` must be a list of strings")
    for text in value:
        check_text(text, f"{where}: `{key}`")
    return tuple(value)
