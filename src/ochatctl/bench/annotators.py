"""AlpacaEval's two annotators: what a judge is asked about a pair, and which of the two it preferred.

in: a pair and a prompt template, out: chat messages; then in: the judge's reply, out: a preference

The templates are AlpacaEval's files; each is a text of `<|im_start|>ROLE ... <|im_end|>` parts with three slots.

Source: tatsu-lab/alpaca_eval 0.6.6, `evaluators_configs/`, `completion_parsers.py`, `processors.py` (the seeded swap).
"""

import ast
import math
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ochatctl.chat.conversation import Message
from ochatctl.engine.client import Ask
from ochatctl.errors import DataError

_SLOTS = ("instruction", "output_1", "output_2")
_PART = re.compile(r"<\|im_start\|>(\w+)\n(.*?)<\|im_end\|>", re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class Annotator:
    """How one of AlpacaEval's judges is asked; `published_judge` is the model whose scores stand in its leaderboard.

    With `num_top_logprobs` the preference is read from the probabilities of the first token, else from a ranking.
    """

    name: str
    template_file: str
    published_judge: str
    max_tokens: int
    temperature: float
    num_top_logprobs: int = 0

    @property
    def needs(self) -> tuple[str, ...]:
        """The parameters without which there is nothing to read."""
        return ("logprobs",) if self.num_top_logprobs else ()

    @property
    def ask(self) -> Ask:
        """How its judge is asked."""
        return Ask(temperature=self.temperature, max_tokens=self.max_tokens, top_logprobs=self.num_top_logprobs or None)


ANNOTATORS = {
    one.name: one
    for one in (
        Annotator(
            name="alpaca_eval_gpt4",
            template_file="alpaca_eval_gpt4/alpaca_eval.txt",
            published_judge="gpt-4",
            max_tokens=100,
            temperature=0.0,
        ),
        Annotator(
            name="weighted_alpaca_eval_gpt4_turbo",
            template_file="alpaca_eval_clf_gpt4_turbo/alpaca_eval_clf.txt",
            published_judge="gpt-4-1106-preview",
            max_tokens=1,
            temperature=1.0,
            num_top_logprobs=5,
        ),
    )
}


def read_template(path: Path) -> tuple[Message, ...]:
    """Read an annotator's prompt: its parts as messages, with slots in them.

    Raises:
        DataError: not such a template, or a slot is missing.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    parts = tuple(Message(role=role, content=content.strip()) for role, content in _PART.findall(text))
    missing = [slot for slot in _SLOTS if not any(f"{{{slot}}}" in part.content for part in parts)]
    if missing:
        raise DataError(f"{path}: no `{{{missing[0]}}}` in a part between `<|im_start|>` and `<|im_end|>`")
    return parts


def fill(template: tuple[Message, ...], *, instruction: str, output_1: str, output_2: str) -> tuple[Message, ...]:
    """Give the messages for a pair in the order in which the judge sees it.

    Guarantees: a slot's name inside an instruction or an output stays as it is.
    """
    values = {"instruction": instruction, "output_1": output_1, "output_2": output_2}
    slot = re.compile("|".join(re.escape(f"{{{name}}}") for name in _SLOTS))
    return tuple(
        Message(role=part.role, content=slot.sub(lambda match: values[match[0][1:-1]], part.content))
        for part in template
    )


def is_swapped(instruction: str, seed: int = 0) -> bool:
    """Tell whether the judge sees the model's output first: drawn from the instruction, so the same in every run."""
    return random.Random(f"is_switched_outputs{instruction}{seed}").choices([False, True])[0]


def unswap(preference: float | None, *, swapped: bool) -> float | None:
    """Give a preference between what was shown first (1) and second (2) as one between reference and model."""
    return 3 - preference if preference is not None and swapped else preference


def ranking(text: str) -> float | None:
    """Read `[{'model': 'model_1', 'rank': 1}, ...]`: the rank of the first output, or None where that is not 1 or 2.

    The first output's rank is the preference: ranked first, it is preferred.
    """
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    rows = value if isinstance(value, list) else []
    ranks = [row.get("rank") for row in rows if isinstance(row, dict) and row.get("model") == "model_1"]
    return float(ranks[0]) if ranks and ranks[0] in (1, 2) and not isinstance(ranks[0], bool) else None


def first_token(logprobs: Mapping[str, float]) -> float | None:
    """Give 2 - P(m) / (P(m) + P(M)) from the log probabilities of the first token; None where neither is among them."""
    both = [logprobs.get(token, -math.inf) for token in ("m", "M")]
    likelier = max(both)
    if likelier == -math.inf:
        return None
    first, second = (math.exp(logprob - likelier) for logprob in both)
    return 2 - first / (first + second)
