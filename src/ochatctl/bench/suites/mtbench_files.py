"""FastChat's files for MT-bench: questions, answers, references; read, checked and written.

Source: lm-sys/FastChat, `fastchat/llm_judge/gen_api_answer.py` and `common.py` (temperatures, file formats).
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ochatctl.bench.journal import Record
from ochatctl.bench.suites.mtbench_score import QuestionId
from ochatctl.chat.conversation import check_text
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

# The texts of a model, one a turn, by question.
Texts = Mapping[QuestionId, tuple[str, ...]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A FastChat question. `temperature` is its category's, or its own `required_temperature`.

    `reference` is read and not used: the judge sees the answers of the file of references.
    """

    question_id: QuestionId
    category: str
    turns: tuple[str, ...]
    temperature: float
    reference: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerFile:
    """A model's answers. Of a question that stands twice the last counts, as in FastChat; `duplicates` names it."""

    model: str
    texts: Texts
    duplicates: tuple[str, ...]


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


def digest_of(questions: Iterable[Question]) -> str:
    """Give the SHA-256 of what is asked."""
    text = json.dumps([asdict(question) for question in questions], sort_keys=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def read_answers(path: Path) -> AnswerFile:
    """Read a file of `model_answer`, or of references; of several choices the first is taken.

    Raises:
        DataError: names `file:line`; or the answers of several models.
    """
    texts: dict[QuestionId, tuple[str, ...]] = {}
    models: dict[str, None] = {}
    twice: list[str] = []
    for where, row in list(read_jsonl(path)):
        question_id, turns, model = _answer(row, where)
        if question_id in texts:
            twice.append(str(question_id))
        texts[question_id] = turns
        models[model] = None
    if len(models) != 1:
        names = ", ".join(f"`{name}`" for name in models) or "none"
        raise DataError(f"{path}: expected the answers of one model, found {names}")
    return AnswerFile(model=next(iter(models)), texts=texts, duplicates=tuple(dict.fromkeys(twice)))


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON lines, whole or not at all."""
    with atomic_file(path) as part:
        part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def answer_rows(questions: Iterable[Question], records: Iterable[Record], model: str) -> Iterable[dict[str, Any]]:
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


def _answer(row: Any, where: str) -> tuple[QuestionId, tuple[str, ...], str]:
    try:
        question_id, turns, model = row["question_id"], row["choices"][0]["turns"], row["model_id"]
    except (KeyError, IndexError, TypeError) as error:
        raise DataError(
            f"{where}: not a row of FastChat's answers: `question_id`, `model_id` and `choices` with `turns`"
        ) from error
    if isinstance(question_id, bool) or not isinstance(question_id, (int, str)):
        raise DataError(f"{where}: `question_id` must be a number or a string, found `{question_id}`")
    return question_id, _texts(turns, "turns", where), str(model)


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
