"""What MT-bench's judge is asked, and how its words are read.

in: questions, answers, references and FastChat's eight judge prompts, out: cases for `bench/judge.py`

Source: lm-sys/FastChat, `fastchat/llm_judge/common.py`: which prompt, what stands in it, and with `compat="fastchat"`
the patterns. Their reading takes the first rating, of any size, and `arr[0]` for one; ours does not.
"""

import ast
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from ochatctl.bench.journal import Record
from ochatctl.bench.judge import Case
from ochatctl.bench.suites.mtbench_files import Texts
from ochatctl.bench.suites.mtbench_score import QuestionId
from ochatctl.engine.client import Ask
from ochatctl.errors import DataError
from ochatctl.files import read_jsonl

Compat = Literal["fastchat"]
T = TypeVar("T")
WITH_REFERENCE = ("math", "reasoning", "coding", "arena-hard-200")
PROMPTS = tuple(
    f"{kind}{turns}"
    for kind in ("single-v1", "single-math-v1", "pair-v2", "pair-math-v1")
    for turns in ("", "-multi-turn")
)
ASK = Ask(temperature=0.0, max_tokens=2048)
LOWEST, HIGHEST = 1.0, 10.0

_SLOT = re.compile(r"\{(\w+)\}")
_RATING = re.compile(r"\[\[\s*(\d+(?:\.\d+)?)\s*(?:/\s*10)?\s*\]\]")
# Where the brackets were forgotten, the word must stand before the number.
_BARE_RATING = re.compile(r"\brating\b[\s:*_`]*\[?\s*(\d+(?:\.\d+)?)(?![\d.]*\d)", re.IGNORECASE)
_WINNER = re.compile(r"\[\[\s*([ABC])\s*\]\]")
_FASTCHAT_RATING = (re.compile(r"\[\[(\d+\.?\d*)\]\]"), re.compile(r"\[(\d+\.?\d*)\]"))


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgePrompt:
    """One of FastChat's prompts; slots such as `{question_1}` stand in the template."""

    name: str
    system: str
    template: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What a question's cases are made of; `reference` is empty where its category has none."""

    question_id: QuestionId
    turns: tuple[str, ...]
    needs_reference: bool
    reference: tuple[str, ...] = ()

    @property
    def num_judged(self) -> int:
        """How many turns are judged: FastChat's prompts know two."""
        return min(2, len(self.turns))


def read_prompts(path: Path) -> dict[str, JudgePrompt]:
    """Read `judge_prompts.jsonl`.

    Raises:
        DataError: names `file:line`, or a prompt that is missing.
    """
    prompts: dict[str, JudgePrompt] = {}
    for where, row in read_jsonl(path):
        table = row if isinstance(row, dict) else {}
        name, system, template = (table.get(key) for key in ("name", "system_prompt", "prompt_template"))
        if not (isinstance(name, str) and isinstance(system, str) and isinstance(template, str)):
            raise DataError(f"{where}: not a judge prompt: `name`, `system_prompt` and `prompt_template`")
        prompts[name] = JudgePrompt(name=name, system=system, template=template)
    missing = [name for name in PROMPTS if name not in prompts]
    if missing:
        raise DataError(f"{path}: no prompt `{missing[0]}` in it", hint="ochatctl bench download mtbench")
    return prompts


def single_cases(
    asked: Iterable[Asked], answers: Texts, prompts: Mapping[str, JudgePrompt], compat: Compat | None = None
) -> list[Case[float]]:
    """Give a case for each turn of each question that was answered: `81:1`, `81:2`, ..."""
    read = reader(rating(compat))
    return [
        Case(id=f"{each.question_id}:{turn}", system=prompt.system, prompt=_filled(prompt, values), read=read, ask=ASK)
        for each in asked
        if each.question_id in answers
        for turn in range(1, each.num_judged + 1)
        for prompt in (prompts[prompt_name("single", each, turn)],)
        for values in (_values(each, turn, {"answer": answers[each.question_id]}),)
    ]


def pair_cases(
    asked: Iterable[Asked],
    answers: Texts,
    baseline: Texts,
    prompts: Mapping[str, JudgePrompt],
    compat: Compat | None = None,
) -> list[Case[str]]:
    """Give two cases for each turn that both answered: `81:1:g1` with the model first, `81:1:g2` with the baseline."""
    read = reader(winner(compat))
    cases = []
    for each in asked:
        if each.question_id not in answers or each.question_id not in baseline:
            continue
        ours, theirs = answers[each.question_id], baseline[each.question_id]
        for turn in range(1, each.num_judged + 1):
            prompt = prompts[prompt_name("pair", each, turn)]
            for game, first, second in (("g1", ours, theirs), ("g2", theirs, ours)):
                values = _values(each, turn, {"answer_a": first, "answer_b": second})
                case_id = f"{each.question_id}:{turn}:{game}"
                cases.append(Case(id=case_id, system=prompt.system, prompt=_filled(prompt, values), read=read, ask=ASK))
    return cases


def prompt_name(mode: Literal["single", "pair"], each: Asked, turn: int) -> str:
    """Give the name of the prompt for a question's turn."""
    kind = {"single": ("single-v1", "single-math-v1"), "pair": ("pair-v2", "pair-math-v1")}[mode][each.needs_reference]
    return kind if turn == 1 else f"{kind}-multi-turn"


def rating(compat: Compat | None) -> Callable[[str], float | None]:
    """Give what reads a rating."""
    return _fastchat_rating if compat else _rating


def winner(compat: Compat | None) -> Callable[[str], str | None]:
    """Give what reads who won: `A`, `B` or `tie`."""
    return _fastchat_winner if compat else _winner


def reader(read: Callable[[str], T | None]) -> Callable[[Record], T | None]:
    """Read a record's text."""
    return lambda record: read(record.text) if record.text is not None else None


def _rating(text: str) -> float | None:
    """Give the last rating in brackets, else after the word; one that is not from 1 to 10 is none."""
    found = _RATING.findall(text) or _BARE_RATING.findall(text)
    value = float(found[-1]) if found else None
    return value if value is not None and LOWEST <= value <= HIGHEST else None


def _fastchat_rating(text: str) -> float | None:
    for pattern in _FASTCHAT_RATING:
        if match := pattern.search(text):
            try:
                return float(ast.literal_eval(match[1]))
            except SyntaxError:  # `07`: it ends their worker
                return None
    return None


def _winner(text: str) -> str | None:
    found = _WINNER.findall(text)
    return {"A": "A", "B": "B", "C": "tie"}[found[-1]] if found else None


def _fastchat_winner(text: str) -> str | None:
    return next((name for mark, name in (("A", "A"), ("B", "B"), ("C", "tie")) if f"[[{mark}]]" in text), None)


def _values(each: Asked, turn: int, answers: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Give what stands in the slots: of the first turn alone, or of both."""
    values = {f"ref_answer_{place}": text for place, text in enumerate(each.reference, start=1)}
    if turn == 1:
        return values | {"question": each.turns[0]} | {name: texts[0] for name, texts in answers.items()}
    values |= {f"question_{place}": text for place, text in enumerate(each.turns[:2], start=1)}
    return values | {
        f"{name}_{place}": text for name, texts in answers.items() for place, text in enumerate(texts[:2], start=1)
    }


def _filled(prompt: JudgePrompt, values: Mapping[str, str]) -> str:
    """Fill the slots in one pass, so that a brace in an answer is a brace."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise DataError(f"judge prompt `{prompt.name}`: nothing to put in its slot `{match[0]}`")
        return values[match[1]]

    return _SLOT.sub(value, prompt.template)
