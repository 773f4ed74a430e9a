"""The graders of ochat 3.2.2, as they are: with their guesses, so that its published scores can be compared with.

in: an answer and the options and labels as ochat's files have them, out: what it called matched, and correct

Where one differs from ours: the first capital letter of a sentence is taken for the choice ("Based on ..." is B); the
choice after "answer is" is the first in the alphabet, not the first that is named; numbers are compared as text,
without sign, so that labels such as `2,125` and `-10` can never be right; an answer without a stated value counts as
right where it equals the label. One grader failed with an IndexError where nothing follows "answer is "; here that
matches an empty answer, as in ochat 3.6.1.

Source: imoneoi/openchat 3.2.2, `ochat/evaluation/match_answer.py` and `run_eval.py`.
"""

import re
import string
from collections.abc import Callable, Sequence

NAME = "ochat-3.2.2"
Matched = tuple[bool, str]
Grader = Callable[[str, Sequence[str]], Matched]

_NUMBER = re.compile(r"\d*\.?\d+")
_AGIEVAL = frozenset("ABCDEF")


def agieval(text: str, options: Sequence[str]) -> Matched:
    """Take the first of the letters A to F, wherever it stands."""
    return _first(text, _AGIEVAL)


def first_option(text: str, options: Sequence[str]) -> Matched:
    """Take the first character that is one of the item's letters."""
    return _first(text, frozenset(options))


def cot(text: str, options: Sequence[str]) -> Matched:
    """Take what follows the last "answer is ", or of the choices in it the first in the alphabet."""
    _, said, rest = text.rpartition("answer is ")
    if not said:
        return False, text
    rest = rest.strip()
    if not options:
        return True, rest.removesuffix(".")
    found = next((letter for letter in string.ascii_uppercase if f"({letter})" in rest), None)
    return (True, f"({found})") if found else (False, rest)


def last_number(text: str, options: Sequence[str]) -> Matched:
    """Take the last digits, with a decimal point in them or before them."""
    found = _NUMBER.findall(text)
    return (True, found[-1]) if found else (False, text)


GRADERS: dict[str, Grader] = {
    "agieval": agieval,
    "first_option": first_option,
    "cot": cot,
    "last_number": last_number,
}


def _first(text: str, wanted: frozenset[str]) -> Matched:
    found = next((char for char in text if char in wanted), None)
    return (True, found) if found else (False, "")
