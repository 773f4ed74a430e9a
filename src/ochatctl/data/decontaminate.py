"""Texts that repeat items of a benchmark, by n-grams of words, as GPT-3 and Llama were checked."""

import functools
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ochatctl.data.formats import Rejected
from ochatctl.errors import DataError
from ochatctl.files import read_jsonl

NGRAM_WORDS = 13
# A shorter item, such as `What is 2 + 2?`, is contained in too much; it counts only where it is a whole text.
_MIN_WORDS_INSIDE = 6

# Where no spaces part the words, each character is one.
_UNSPACED = "\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
_TEXT_KEYS = ("question", "prompt", "text", "instruction", "problem", "query", "input")
_LIST_KEYS = ("turns", "messages", "conversations")
_ID_KEYS = ("id", "question_id", "task_id")
# An odd number, so that no word's share of the hash is lost modulo 2**64.
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


class RejectContaminated:
    """Rejects texts that hold 13 words in a row of a benchmark's item, in any case and with any punctuation.

    An item of fewer words counts where it is found whole. Memory: 12 bytes for each n-gram of the benchmarks. Hashes of
    64 bits stand for n-grams: of 10^9 texts' against 10^6 of benchmarks, one in 20,000 runs has a false match.

    Raises:
        DataError: a benchmark is missing, or an item of it has no text; names `file:line`.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._names: list[str] = []
        hashes: dict[int, list[np.ndarray]] = {}
        owners: dict[int, list[np.ndarray]] = {}
        for name, text in _benchmark_texts(paths):
            words = _hashed_words(text)
            num_words = min(len(words), NGRAM_WORDS)
            if not num_words:
                continue
            grams = _ngram_hashes(words, num_words)
            hashes.setdefault(num_words, []).append(grams)
            owners.setdefault(num_words, []).append(np.full(len(grams), len(self._names), np.uint32))
            self._names.append(name)
        self._index: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        for num_words in sorted(hashes, reverse=True):
            # The first of equal n-grams is the one that a match names.
            grams, first = np.unique(np.concatenate(hashes[num_words]), return_index=True)
            self._index[num_words] = grams, np.concatenate(owners[num_words])[first]

    def __call__(self, texts: Sequence[str]) -> Rejected | None:
        for text in texts:
            words = _hashed_words(text)
            for num_words, (grams, owners) in self._index.items():
                if len(words) < num_words or (num_words < _MIN_WORDS_INSIDE and len(words) != num_words):
                    continue
                found = _ngram_hashes(words, num_words)
                places = np.minimum(np.searchsorted(grams, found), len(grams) - 1)
                hits = np.flatnonzero(grams[places] == found)
                if len(hits):
                    return Rejected(reason="contaminated", detail=self._names[owners[places[hits[0]]]])
        return None


def _benchmark_texts(paths: Iterable[Path]) -> Iterator[tuple[str, str]]:
    """Give the texts of each item with the name to call it by: its id, and where it stands."""
    for path in paths:
        for where, value in read_jsonl(path):
            texts = list(_texts_of(value)) if isinstance(value, dict) else []
            if not texts:
                known = ", ".join(f"`{key}`" for key in (*_TEXT_KEYS, *_LIST_KEYS))
                raise DataError(f"{where}: no text to look for", hint=f"an item of a benchmark has one of {known}")
            item_id = next((str(value[key]) for key in _ID_KEYS if value.get(key) not in (None, "")), "")
            for text in texts:
                yield f"`{item_id}` ({where})" if item_id else where, text


def _texts_of(item: dict[str, Any]) -> Iterator[str]:
    """Give the questions of an item; answers are short, and stand in texts that have nothing to do with it."""
    for key in _TEXT_KEYS:
        if isinstance(item.get(key), str) and item[key].strip():
            yield item[key]
    for key in _LIST_KEYS:
        turns = item.get(key)
        for turn in turns if isinstance(turns, list) else []:
            if isinstance(turn, dict):
                asked = turn.get("role", turn.get("from")) in ("user", "human")
                turn = turn.get("content", turn.get("value")) if asked else None
            if isinstance(turn, str) and turn.strip():
                yield turn


def _hashed_words(text: str) -> np.ndarray:
    words = _WORD.findall(text.casefold())
    return np.fromiter(map(_hashed, words), dtype=np.uint64, count=len(words))


@functools.lru_cache(maxsize=1 << 17)
def _hashed(word: str) -> int:
    # Python's own hash differs from process to process.
    digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _ngram_hashes(words: np.ndarray, num_words: int) -> np.ndarray:
    """Give a hash of each run of `num_words` words: a polynomial in the words' hashes, modulo 2**64."""
    count = len(words) - num_words + 1
    out = np.zeros(count, dtype=np.uint64)
    for offset in range(num_words):
        out = out * _FACTOR + words[offset : offset + count]
    return out
