"""Find the value in what a model said. What no rule finds is None, unmatched: never a guess.

in: an answer's text and the item's options, out: a value to compare with the labels, or None
"""

import re
import unicodedata
from collections.abc import Callable, Sequence

Extractor = Callable[[str, Sequence[str]], str | None]

_OPEN = r"[\s*_`(\[{$\"']*(?:\\boxed\{|\\text\{|\\textbf\{)*[\s*_`(\[{\"']*"
# A letter that stands alone: an apostrophe, a hyphen or a further letter makes a word of it ("I'm", "A-frame").
_LETTER = r"(?P<letter>[A-Z])(?![A-Za-z0-9]|['’\-–][A-Za-z]|\.[A-Za-z])"
# "The answer is (C)", "Answer: C", "the correct option would be **C**", "I choose C".
_STATED = re.compile(
    r"(?i:\b(?:answer|option|choice)\b[\s*_]*"
    r"(?:is|was|are|would[ ]be|must[ ]be|should[ ]be|will[ ]be|=|:)[\s*_]*:?[\s*_]*"
    r"(?:(?:clearly|therefore|thus|simply|likely|probably|most[ ]likely|definitely)\s+)?"
    r"(?:(?:the[ ])?(?:letter|option|choice)\s+)?)" + _OPEN + _LETTER
)
_BRACKETED = re.compile(r"(?:\(|\[|\\boxed\{|\*\*)\s*" + _LETTER + r"\s*[.):]?\s*(?:\)|\]|\}|\*\*)")
# A line that begins with a letter which is set off from what follows: "C", "(C) Eight", "C. Eight", "C, for".
_LINE = re.compile(r"^[\s>#\-]*[(\[{*_`\"'“]*" + _LETTER + r"[*_`\"'”]*(?:[)\]}.:,;]+|\s*$)(?P<rest>.*)$", re.MULTILINE)
# After a letter: another one joined to it, which leaves open which is meant.
_JOINED = re.compile(r"[\s)\]}*_`.,]*(?:\bor\b|\band\b|/|&|,)\s*" + _OPEN + r"(?:[Oo]ption\s+)?[A-Z](?![A-Za-z'’])")
# "The answer is A dog" and "I think": these two letters are words as well, so what follows must set them off.
_WORDS = "AI"
_AFTER_A_WORD = re.compile(r"\s*(?:$|[^\w\s'’\-]|\n|(?:because|since|as|for)\b)")
_EDGES = " \t\r\n.!?,;:\"'`*_“”‘’"


def normalise(text: str) -> str:
    """Give a text as exact match compares it.

    Guarantees: Unicode NFKC, case folded, each run of space one space, quotes, emphasis marks and closing punctuation
    at both ends dropped; nothing inside is touched, and a leading sign or a closing `%` stays.
    """
    text = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(text.split()).strip(_EDGES)


def exact(text: str, options: Sequence[str] = ()) -> str | None:
    """Give the whole answer, normalised; an empty one is unmatched."""
    return normalise(text) or None


def letter(text: str, options: Sequence[str]) -> str | None:
    """Give the letter of the option that an answer names.

    The first of these rules that applies decides, and where it finds two letters, the answer is unmatched:

    1. the whole answer is one letter, in either case, or the text of exactly one option;
    2. the last statement of the form "the answer is (C)" or "Answer: C";
    3. lines that hold a letter and nothing else, or else the option's own text: "C", "(C) Eight";
    4. letters that begin a line and are set off, and letters in brackets or bold: "C, for ...", "so it is (C)".
    """
    whole = _whole(text, options)
    if whole is not None:
        return whole
    stated = [match for match in _STATED.finditer(text) if _is_letter(match, text)]
    if stated:
        return _only({stated[-1]["letter"]}, options) if not _is_joined(stated[-1], text) else None
    lines = [match for match in _LINE.finditer(text) if _is_letter(match, text)]
    for found in (
        [match for match in lines if _is_whole_line(match, options)],
        lines + [match for match in _BRACKETED.finditer(text) if _is_letter(match, text)],
    ):
        if found:
            if any(_is_joined(match, text) for match in found):
                return None
            return _only({match["letter"] for match in found}, options)
    return None


EXTRACTORS: dict[str, Extractor] = {"letter": letter, "exact": exact}


def _whole(text: str, options: Sequence[str]) -> str | None:
    alone = text.strip(_EDGES + "()[]{}$").upper()
    if len(alone) == 1 and "A" <= alone <= "Z":
        return _only({alone}, options)
    same = {chr(ord("A") + i) for i, option in enumerate(options) if normalise(option) == normalise(text)}
    return _only(same, options)


def _only(found: set[str], options: Sequence[str]) -> str | None:
    if len(found) != 1:
        return None
    (one,) = found
    return one if ord(one) - ord("A") < len(options) else None


def _is_letter(match: re.Match[str], text: str) -> bool:
    return match["letter"] not in _WORDS or _AFTER_A_WORD.match(text, match.end("letter")) is not None


def _is_whole_line(match: re.Match[str], options: Sequence[str]) -> bool:
    index, rest = ord(match["letter"]) - ord("A"), normalise(match["rest"])
    return not rest or (index < len(options) and rest == normalise(options[index]))


def _is_joined(match: re.Match[str], text: str) -> bool:
    return _JOINED.match(text, match.end("letter")) is not None
