"""A text of any length -> pieces to learn whole, each small enough to hold.

in: a text stream; out: its pieces in order, which joined give the text again.
"""

import io
from collections.abc import Iterator

# About a book's size. A row of a packed dataset is far shorter, so that few of them end at such a border.
PIECE_CHARS = 1 << 20


def text_pieces(text: io.TextIOBase, *, piece_chars: int = PIECE_CHARS) -> Iterator[str]:
    """Give the whole text where it is no longer than a piece, else pieces that end at the last blank line.

    Guarantees: no piece is longer; one without a blank line in its second half ends at a line's end, or where it must.
    """
    held = ""
    while True:
        more = text.read(piece_chars + 1 - len(held))
        held += more
        if len(held) <= piece_chars and more:
            continue
        if len(held) <= piece_chars:
            if held:
                yield held
            return
        end = _border(held, piece_chars)
        yield held[:end]
        held = held[end:]


def _border(held: str, piece_chars: int) -> int:
    for mark in ("\n\n", "\n"):
        at = held.rfind(mark, piece_chars // 2, piece_chars)
        if at >= 0:
            return at + len(mark)
    return piece_chars
