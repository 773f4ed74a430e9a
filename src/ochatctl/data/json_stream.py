"""JSON values out of a text of any length, one at a time; a malformed one costs only itself.

in: an array, several arrays, or values one after another, as a text stream; out: values and problems in their order.
"""

import io
import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

NOT_JSON = "not valid JSON"
CUT_OFF = "the file is cut off here"

_CHUNK_CHARS = 1 << 20
# Of one value, and of what is searched for the next after a malformed one.
_LONGEST_VALUE_CHARS = 1 << 26
_SHOWN_CHARS = 1000
# The longest token that the end of a buffer can cut in two without being a string: a pair of `\uXXXX` escapes.
_CUT_TOKEN_CHARS = 16
_MOST_OPENINGS = 16

_BETWEEN = re.compile(r"[ \t\r\n,]*+")
_OPENING = re.compile(r'\{\s*+"(?:[^"\\]++|\\.)*+"\s*+:', re.DOTALL)
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)|[{}\[\]]', re.DOTALL)
_AFTER_VALUE = re.compile(r"\s*+(?:[,\]{]|\Z)")
_AFTER_STRING = re.compile(r"\s*+(?:[:,\]}]|\Z)")
_AFTER_JUNK = re.compile(r"[,{\[\]]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoded:
    """A value, or where there is a `problem` the beginning of the raw text."""

    value: Any
    problem: str = ""


def decode_lines(text: io.TextIOBase, *, longest_chars: int = _LONGEST_VALUE_CHARS) -> Iterator[tuple[int, Decoded]]:
    """Give each line that is not blank with its number."""
    for number in itertools.count(1):
        line = text.readline(longest_chars)
        if not line:
            return
        if len(line) == longest_chars and not line.endswith("\n") and _skip_line(text):
            yield number, Decoded(value=line[:_SHOWN_CHARS], problem="a line is too long")
        elif line.strip():
            try:
                yield number, Decoded(value=json.loads(line))
            except (ValueError, RecursionError):
                yield number, Decoded(value=line, problem=NOT_JSON)


def decode_stream(text: io.TextIOBase, *, chunk_chars: int = _CHUNK_CHARS) -> Iterator[Decoded]:
    """Give the members of arrays, or values one after another, holding one at a time.

    Guarantees: after a malformed member the next one is found again, where the brackets of this one are in balance, or
    where an object begins with the first key that one has begun with before; a text that is cut off gives all its
    whole values, then one problem.
    """
    decode = json.JSONDecoder().raw_decode
    window = _Window(text, chunk_chars)
    of_arrays: bool | None = None
    in_array = False
    openings: set[str] = set()
    while True:
        found = _BETWEEN.match(window.held, window.position)
        window.position = found.end() if found else window.position
        if window.position == len(window.held):
            if window.read_on():
                continue
            if in_array:
                yield Decoded(value="", problem=CUT_OFF)
            return
        held, start = window.held, window.position
        if of_arrays is None:
            of_arrays = held[start] == "["
        if held[start] == "[" and of_arrays and not in_array:
            in_array, window.position = True, start + 1
            continue
        if held[start] == "]" and in_array:
            in_array, window.position = False, start + 1
            continue
        try:
            value, end = decode(held, start)
            # A number at the very end of the buffer may go on.
            error_at, may_go_on = end, end == len(held) and isinstance(value, (int, float))
            if not may_go_on or not window.read_on():
                yield Decoded(value=value)
                window.position = end
                if len(openings) < _MOST_OPENINGS and (opens := _OPENING.match(held, start)):
                    openings.add(opens.group())
            continue
        except json.JSONDecodeError as error:
            error_at = error.pos
            may_go_on = error.msg.startswith("Unterminated") or error_at >= len(held) - _CUT_TOKEN_CHARS
        except (ValueError, RecursionError):
            error_at, may_go_on = start, False
        if may_go_on and window.read_on():
            continue
        shown = held[start : start + _SHOWN_CHARS]
        if not _skip_malformed(window, error_at, openings):
            yield Decoded(value=shown, problem=CUT_OFF if may_go_on else f"{NOT_JSON} from here on")
            return
        yield Decoded(value=shown, problem=NOT_JSON)


class _Window:
    """The part of a stream that is held: what lies before `position` is done with."""

    def __init__(self, text: io.TextIOBase, chunk_chars: int) -> None:
        self.held = ""
        self.position = 0
        self._text = text
        self._chunk_chars = chunk_chars

    def read_on(self) -> bool:
        """Hold more, and put the position at 0; False at the end, or where one value is too long to be one."""
        pending_chars = len(self.held) - self.position
        # A long value is tried again with twice as much, not once a chunk.
        more = self._text.read(max(self._chunk_chars, pending_chars)) if pending_chars < _LONGEST_VALUE_CHARS else ""
        if not more:
            return False
        self.held, self.position = self.held[self.position :] + more, 0
        return True


def _skip_malformed(window: _Window, error_at: int, openings: set[str]) -> bool:
    """Move to what follows the malformed value at the position; False where nothing tells where that is."""
    if not openings and (opens := _OPENING.match(window.held, window.position)):
        openings = {opens.group()}
    # A string that is not closed ends at the next one's first quote: then an opening begins before the error.
    ends_string = window.held[error_at - 1 : error_at] == '"'
    error_at -= max(map(len, openings), default=0) if ends_string else 0
    # One that begins an inner object too does not tell an item from a part of one.
    read = window.held[window.position + 1 : max(error_at, window.position + 1)]
    openings = {opening for opening in openings if opening not in read}
    num_read_chars = max(1, error_at - window.position)
    while True:
        opened = _next_opening(window.held, window.position + num_read_chars, openings)
        closed, doubtful = _balanced_end(window.held, window.position)
        doubtful = doubtful and closed is not None and not _goes_on(window.held, closed, openings)
        if opened is not None and (closed is None or closed > opened or doubtful):
            window.position = opened
            return True
        if closed is not None:
            window.position = closed
            return True
        if not window.read_on():
            return False


def _next_opening(held: str, start: int, openings: set[str]) -> int | None:
    found: list[int] = []
    for opening in openings:
        at = held.find(opening, start)
        # A string cannot hold it, since its quotes would be escaped there; a member `"key": {"id": ...` can.
        while at >= 0 and held[max(0, at - 64) : at].rstrip()[-1:] not in (",", "}", "]"):
            at = held.find(opening, at + 1)
        if at >= 0:
            found.append(at)
    return min(found, default=None)


def _balanced_end(held: str, start: int) -> tuple[int | None, bool]:
    """Give where the brackets that open at `start` have closed again, strings left out.

    That is doubtful where what seems a string is followed by what cannot follow one: with an odd number of quotes, text
    and strings change places.
    """
    if held[start] not in "{[":
        found = _AFTER_JUNK.search(held, start + 1)
        return found.start() if found else None, False
    depth, doubtful = 0, False
    for token in _STRING_OR_BRACKET.finditer(held, start):
        first = held[token.start()]
        if first == '"':
            doubtful = doubtful or not _AFTER_STRING.match(held, token.end())
            continue
        depth += 1 if first in "{[" else -1
        if depth == 0:
            return token.end() if _AFTER_VALUE.match(held, token.end()) else None, doubtful
    return None, doubtful


def _goes_on(held: str, end: int, openings: set[str]) -> bool:
    """Tell whether after a value there comes the end of the array, or an object that begins as others did."""
    after = _BETWEEN.match(held, end)
    at = after.end() if after else end
    return held[at : at + 1] in ("", "]") or held.startswith(tuple(openings), at)


def _skip_line(text: io.TextIOBase) -> bool:
    """Read to the end of the line; tell whether there was anything left of it."""
    rest = text.readline(_CHUNK_CHARS)
    left = rest not in ("", "\n")
    while rest and not rest.endswith("\n"):
        rest = text.readline(_CHUNK_CHARS)
    return left
