"""Find the value in what a model said. What no rule finds is None, unmatched: never a guess.

in: an answer's text and the item's options, out: a value to compare with the labels, or None
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from fractions import Fraction

Extractor = Callable[[str, Sequence[str]], str | None]

_OPEN = r"[\s*_`(\[{$\"']*(?:\\boxed\{|\\text\{|\\textbf\{)*[\s*_`(\[{\"']*"
# A letter that stands alone: an apostrophe, a hyphen or a further letter makes a word of it ("I'm", "A-frame").
_LETTER = r"(?P<letter>[A-Z])(?![A-Za-z0-9]|['’\-–][A-Za-z]|\.[A-Za-z])"
_IS = r"(?:is|was|are|would[ ]be|must[ ]be|should[ ]be|will[ ]be|=|:)[\s*_]*:?[\s*_]*"
_SURELY = r"(?:(?:clearly|therefore|thus|simply|likely|probably|most[ ]likely|definitely)\s+)?"
# "The answer is (C)", "Answer: C", "the correct option would be **C**", "the answer is (c)".
_SAID = r"(?i:\b(?:answer|option|choice)\b[\s*_]*" + _IS + _SURELY + r"(?:(?:the[ ])?(?:letter|option|choice)\s+)?)"
_STATED = re.compile(_SAID + r"(?:\((?P<small>[a-z])\)|" + _OPEN + _LETTER + ")")
_SAYING = re.compile(_SAID)
_BRACKETED = re.compile(r"(?:\(|\[|\\boxed\{|\*\*)\s*" + _LETTER + r"\s*[.):]?\s*(?:\)|\]|\}|\*\*)")
# A line that begins with a letter which is set off from what follows: "C", "(C) Eight", "C. Eight", "C, for".
_LINE = re.compile(r"^[\s>#\-]*[(\[{*_`\"'“]*" + _LETTER + r"[*_`\"'”]*(?:[)\]}.:,;]+|\s*$)(?P<rest>.*)$", re.MULTILINE)
# After a letter: another one joined to it, which leaves open which is meant.
_JOINED = re.compile(r"[\s)\]}*_`.,]*(?:\bor\b|\band\b|/|&|,)\s*" + _OPEN + r"(?:[Oo]ption\s+)?[A-Z](?![A-Za-z'’])")
# "The answer is A dog" and "I think": these two letters are words as well, so what follows must set them off.
_WORDS = "AI"
_AFTER_A_WORD = re.compile(r"\s*(?:$|[^\w\s'’\-]|\n|(?:because|since|as|for)\b)")
_ANSWER = re.compile(r"(?i:\banswer\b[\s*_]*" + _IS + _SURELY + r")|####|\\boxed\{|^A:", re.MULTILINE)
# A base model goes on with a question of its own; what it says there answers something else.
_NEXT_QUESTION = re.compile(r"\n\s*(?:Question|Q):")
_NUMBER = re.compile(
    r"(?P<sign>(?<![\w)\]}])[-−])?(?:[$€£](?P<inner>[-−])?)?"
    r"(?P<digits>\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(?:/(?P<below>[1-9]\d*))?"
)
_SENTENCE_END = re.compile(r"\.(?=\s|$)|\n")
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
    3. where nothing states a letter, the last statement "the answer is Jupiter", in exactly one option's own words;
    4. lines that hold a letter and nothing else, or else the option's own text: "C", "(C) Eight";
    5. letters that begin a line and are set off, and letters in brackets or bold: "C, for ...", "so it is (C)".
    """
    return _letter(text, options, mentions=True)


def letter_cot(text: str, options: Sequence[str]) -> str | None:
    """Give the letter that an answer with its reasoning comes to: as `letter` without its last rule.

    An option is mentioned in brackets while it is weighed, and where the answer breaks off there, nothing was chosen.
    """
    return _letter(text, options, mentions=False)


def number(text: str, options: Sequence[str] = ()) -> str | None:
    """Give the number that an answer ends in, as `as_number` writes it.

    The last statement decides ("The answer is 18", "#### 18", "\\boxed{18}", a line "A: 18"): of what follows it the
    first number, or the first after the last `=`. Where there is none, the last number of all.
    """
    text = _without_next_question(text)
    for match in reversed(list(_ANSWER.finditer(text))):
        lines = [line for line in text[match.end() :].splitlines() if line.strip()]
        if lines:
            found = _NUMBER.search(lines[0].rpartition("=")[2]) or _NUMBER.search(lines[0])
            if found:
                return _written(found)
    every = list(_NUMBER.finditer(text))
    return _written(every[-1]) if every else None


def as_number(text: str) -> str | None:
    """Give a label or an answer that is one number: `2,125`, `$18.00` and `-10` as `2125`, `18` and `-10`."""
    found = _NUMBER.fullmatch(text.strip().removesuffix("%"))
    return _written(found) if found else None


def stated(text: str, options: Sequence[str] = ()) -> str | None:
    """Give what follows the last "the answer is", up to the end of the sentence, as `as_stated` writes it.

    Where nothing is stated, an answer of one line is taken whole. With `options`, such as Yes and No, it is the one
    that the sentence begins with, or the only one in it ("the answer is clearly no"); never one that is denied.
    """
    text = _without_next_question(text)
    said = list(_ANSWER.finditer(text))
    lines = [line for line in text.splitlines() if line.strip()]
    if said and said[-1][0].endswith("{"):
        sentence = text[said[-1].end() :].partition("}")[0]
    elif said:
        sentence = _first_sentence(text[said[-1].end() :])
    elif lines and (options or len(lines) == 1):
        sentence = lines[-1]
    else:
        return None
    value = as_stated(sentence)
    return (_option_in(value, options) if options else value) or None


def as_stated(text: str) -> str:
    """Give a text as `stated` compares it: as `normalise`, and with a space for each comma of a list."""
    return re.sub(r"\s*,\s*", " ", normalise(text))


EXTRACTORS: dict[str, Extractor] = {
    "letter": letter,
    "letter_cot": letter_cot,
    "exact": exact,
    "number": number,
    "stated": stated,
}


def _letter(text: str, options: Sequence[str], *, mentions: bool) -> str | None:
    text = _without_next_question(text)
    whole = _whole(text, options)
    if whole is not None:
        return whole
    stated = [match for match in _STATED.finditer(text) if match["small"] or _is_letter(match, text)]
    if stated:
        last = stated[-1]
        if last["small"]:
            return _only({last["small"].upper()}, options)
        return _only({last["letter"]}, options) if not _is_joined(last, text) else None
    said = [match.end() for match in _SAYING.finditer(text)]
    in_words = _of_text(_first_sentence(text[said[-1] :]), options) if said else None
    if in_words is not None:
        return in_words
    lines = [match for match in _LINE.finditer(text) if _is_letter(match, text)]
    for found in (
        [match for match in lines if _is_whole_line(match, options)],
        lines + [match for match in _BRACKETED.finditer(text) if _is_letter(match, text)] if mentions else [],
    ):
        if found:
            if any(_is_joined(match, text) for match in found):
                return None
            return _only({match["letter"] for match in found}, options)
    return None


def _whole(text: str, options: Sequence[str]) -> str | None:
    alone = text.strip(_EDGES + "()[]{}$")
    if len(alone) == 1 and alone.isascii() and alone.isalpha():
        # A question of more than 26 options goes on with `[`, ..., `a`, `b`: there a small letter is one of its own.
        return _only({alone if _is_option(alone, options) else alone.upper()}, options)
    return _of_text(text, options)


def _of_text(text: str, options: Sequence[str]) -> str | None:
    wanted = normalise(text)
    return _only({chr(ord("A") + i) for i, option in enumerate(options) if normalise(option) == wanted}, options)


def _option_in(value: str, options: Sequence[str]) -> str | None:
    known = [as_stated(option) for option in options]
    if value in known:
        return value
    found = [option for option in known if re.search(rf"(?<!\w){re.escape(option)}(?!\w)", value)]
    first = [option for option in found if re.match(rf"{re.escape(option)}(?!\w)(?! (?:or|and)\b)", value)]
    if len(first) == 1:
        return first[0]
    is_denied = re.search(r"\b(?:not|neither|nor|or)\b|n['’]t\b", value)
    return found[0] if len(found) == 1 and not is_denied else None


def _first_sentence(text: str) -> str:
    return next((part for part in _SENTENCE_END.split(text) if part.strip(_EDGES)), "")


def _without_next_question(text: str) -> str:
    found = _NEXT_QUESTION.search(text)
    return text[: found.start()] if found and text[: found.start()].strip() else text


def _written(match: re.Match[str]) -> str:
    value = Fraction(match["digits"].replace(",", "")) / int(match["below"] or 1)
    return str(-value if match["sign"] or match["inner"] else value)


def _only(found: set[str], options: Sequence[str]) -> str | None:
    if len(found) != 1:
        return None
    (one,) = found
    return one if _is_option(one, options) else None


def _is_option(one: str, options: Sequence[str]) -> bool:
    return 0 <= ord(one) - ord("A") < len(options)


def _is_letter(match: re.Match[str], text: str) -> bool:
    return match["letter"] not in _WORDS or _AFTER_A_WORD.match(text, match.end("letter")) is not None


def _is_whole_line(match: re.Match[str], options: Sequence[str]) -> bool:
    index, rest = ord(match["letter"]) - ord("A"), normalise(match["rest"])
    return not rest or (index < len(options) and rest == normalise(options[index]))


def _is_joined(match: re.Match[str], text: str) -> bool:
    return _JOINED.match(text, match.end("letter")) is not None
