"""What AlpacaEval's judges are asked, and how their replies are read."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ochatctl.bench.annotators import fill, first_token, is_swapped, ranking, read_template, unswap
from ochatctl.chat.conversation import Message
from ochatctl.errors import DataError

TEMPLATE = """<|im_start|>system
You rank.
<|im_end|>
<|im_start|>user
Asked: {instruction}
m: {output_1}
M: {output_2}
<|im_end|>"""


def test_a_template_is_filled_once(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text(TEMPLATE)
    messages = fill(
        read_template(tmp_path / "t.txt"), instruction="say {output_1}", output_1="{output_2}", output_2="fine"
    )
    assert messages == (
        Message(role="system", content="You rank."),
        Message(role="user", content="Asked: say {output_1}\nm: {output_2}\nM: fine"),
    )


def test_a_template_without_a_slot_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text(TEMPLATE.replace("{output_2}", "x"))
    with pytest.raises(DataError, match=r"no `\{output_2\}`"):
        read_template(tmp_path / "t.txt")
    with pytest.raises(DataError, match="no such file"):
        read_template(tmp_path / "none.txt")


def test_the_order_depends_on_the_instruction_and_the_seed_alone() -> None:
    # Drawn by alpaca_eval 0.6.6's own rule, which 16,058 of its published judgments bear out.
    assert [is_swapped(text) for text in ("2+2", "2+3", "a", "b", "c", "d")] == [False, True, True, True, False, False]
    assert 400 < sum(is_swapped(str(number)) for number in range(1000)) < 600
    assert any(is_swapped(str(number)) != is_swapped(str(number), seed=1) for number in range(20))


@pytest.mark.parametrize(
    ("reply", "preference"),
    [
        ("[{'model': 'model_1', 'rank': 1}, {'model': 'model_2', 'rank': 2}]", 1.0),
        ("[{'model': 'model_1', 'rank': 2}, {'model': 'model_2', 'rank': 1}]", 2.0),
        (" [{'model': 'model_2', 'rank': 1}, {'model': 'model_1', 'rank': 2}]\n", 2.0),
        ("[{'model': 'model_1', 'rank': 3}]", None),
        ("[{'model': 'model_1', 'rank': True}]", None),
        ("[{'model': 'model_2', 'rank': 1}]", None),
        ("[{'model': 'model_1'}]", None),
        ("{'model': 'model_1', 'rank': 1}", None),
        ("Both are good.", None),
        ("[1, 2]", None),
        ("__import__('os').getpid()", None),
        ("(" * 500, None),
        ("\x00", None),
        ("", None),
    ],
)
def test_a_ranking_is_read_or_is_none(reply: str, preference: float | None) -> None:
    assert ranking(reply) == preference


def test_probabilities_make_a_preference() -> None:
    assert first_token({"m": math.log(0.6), "M": math.log(0.2), "Both": math.log(0.1)}) == pytest.approx(1.25)
    assert first_token({"m": -0.1}) == 1.0
    assert first_token({"M": -0.1}) == 2.0
    assert first_token({"Both": -0.1}) is None
    assert first_token({}) is None
    assert first_token({"m": -5000.0, "M": -5000.0}) == 1.5


@given(st.one_of(st.none(), st.floats(1, 2)), st.booleans())
def test_a_swap_is_undone_by_a_swap(preference: float | None, swapped: bool) -> None:
    once = unswap(preference, swapped=swapped)
    assert unswap(once, swapped=swapped) == (preference if preference is None else pytest.approx(preference))
