"""Laws of turning tokens into deltas, over every split."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from ochatctl.chat.byte_tokenizer import ByteTokenizer
from ochatctl.chat.tokenizer import Detokenizer
from ochatctl.engine.answer import Answer, StopStrings
from ochatctl.engine.base import Delta, SamplingSpec

TOKENIZER = ByteTokenizer(["<|end_of_turn|>"])
TEXT = st.text(alphabet="abé🦜\ufffd", max_size=24)
STOPS = st.lists(st.text(alphabet="abé🦜", min_size=1, max_size=4), max_size=3).map(tuple)


def cut(text: str, stop: tuple[str, ...]) -> tuple[str, bool]:
    """Look at every prefix of the text, the slow way."""
    for end in range(len(text) + 1):
        hits = [each for each in stop if text[:end].endswith(each)]
        if hits:
            return text[: end - max(map(len, hits))], True
    return text, False


def feed(token_ids: list[int], **values: object) -> list[Delta]:
    spec = SamplingSpec(**({"max_tokens": 10_000} | values))  # type: ignore[arg-type]  # of mixed types
    answer = Answer(TOKENIZER, spec, room_tokens=10_000)
    deltas = [delta for token_id in token_ids if (delta := answer.push(token_id))]
    return deltas if answer.finish_reason else [*deltas, answer.finish("stop")]


@given(text=TEXT, stop=STOPS, splits=st.lists(st.integers(0, 24), max_size=6))
@settings(deadline=None, max_examples=300)
def test_a_stop_string_cuts_alike_at_every_split(text: str, stop: tuple[str, ...], splits: list[int]) -> None:
    strings = StopStrings(stop)
    edges = sorted({0, len(text), *(min(split, len(text)) for split in splits)})
    out = ""
    for start, end in itertools.pairwise(edges):
        out += strings.push(text[start:end])
        if strings.hit:
            break
    expected, hit = cut(text, stop)
    assert strings.hit == hit
    # Of several that are complete within one piece, the first complete one cuts: as if it had come letter by letter.
    assert out + strings.flush() == expected


@given(text=TEXT, stop=STOPS, period=st.integers(1, 5))
@settings(deadline=None, max_examples=300)
def test_joined_deltas_are_the_text(text: str, stop: tuple[str, ...], period: int) -> None:
    deltas = feed(list(text.encode()), stop=stop, stream_period=period)
    assert "".join(delta.text for delta in deltas) == cut(text, stop)[0]
    assert [delta.finish_reason is None for delta in deltas] == [True] * (len(deltas) - 1) + [False]
    assert all(delta.text for delta in deltas[:-1])


@given(token_ids=st.lists(st.integers(0, 255), max_size=40))
@settings(deadline=None, max_examples=200)
def test_bytes_that_are_no_text_decode_as_they_would_at_once(token_ids: list[int]) -> None:
    deltas = feed(token_ids)
    assert "".join(delta.text for delta in deltas) == TOKENIZER.decode(token_ids)
    assert [index for delta in deltas for index in delta.token_ids] == token_ids
    detokenizer = Detokenizer(TOKENIZER)
    assert "".join(detokenizer.push([index]) for index in token_ids) + detokenizer.flush() == "".join(
        delta.text for delta in deltas
    )


def test_nothing_of_a_stop_string_is_shown_while_it_may_yet_come() -> None:
    deltas = feed(list(b"one ENx two END three"), stop=("END",))
    assert [delta.text for delta in deltas][-2:] == [" ", ""]
    assert "".join(delta.text for delta in deltas) == "one ENx two "
    assert not any(delta.text.endswith("E") for delta in deltas)


def test_what_looked_like_a_stop_string_is_shown_at_the_end() -> None:
    deltas = feed(list(b"to be EN"), stop=("END",))
    assert deltas[-1].text == "EN"


def test_a_stop_token_gives_no_text_and_ends() -> None:
    (eot,) = TOKENIZER.control_ids
    deltas = feed([*b"hi", eot, *b"more"], stop_token_ids=(eot,))
    assert "".join(delta.text for delta in deltas) == "hi"
    assert deltas[-1] == Delta(token_ids=(eot,), finish_reason="stop")


def test_tokens_after_the_end_are_ignored() -> None:
    answer = Answer(TOKENIZER, SamplingSpec(max_tokens=2), room_tokens=99)
    assert answer.push(97) is not None
    last = answer.push(98)
    assert last == Delta(token_ids=(98,), text="b", finish_reason="length")
    assert answer.push(99) is None
    assert answer.num_tokens == 2


def test_the_context_ends_an_answer_before_max_tokens() -> None:
    answer = Answer(TOKENIZER, SamplingSpec(max_tokens=50), room_tokens=1)
    delta = answer.push(97)
    assert delta is not None
    assert delta.finish_reason == "length"
