"""Texts are learnt whole: pieces that joined give the text again, and end between paragraphs where they can."""

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ochatctl.data.plain_text import text_pieces


@given(st.text(alphabet="ab \n", max_size=120), st.integers(1, 20))
@settings(deadline=None, max_examples=150)
def test_the_pieces_are_the_text(text: str, piece_chars: int) -> None:
    pieces = list(text_pieces(io.StringIO(text, newline="\n"), piece_chars=piece_chars))
    assert "".join(pieces) == text
    assert all(0 < len(piece) <= piece_chars for piece in pieces)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("", []),
        ("short\n\none", ["short\n\none"]),
        ("aaaaaaa\n\nbbb\nccccc", ["aaaaaaa\n\n", "bbb\nccccc"]),
        ("aaaaaa\nbbbbbbbbb", ["aaaaaa\n", "bbbbbbbbb"]),
        ("a\n\n" + "b" * 15, ["a\n\nbbbbbbb", "bbbbbbbb"]),
    ],
)
def test_a_piece_ends_at_a_blank_line_or_a_line_or_where_it_must(text: str, pieces: list[str]) -> None:
    assert list(text_pieces(io.StringIO(text), piece_chars=10)) == pieces
