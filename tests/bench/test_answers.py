"""What is read out of an answer, and what is not."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ochatctl.bench.answers import EXTRACTORS, exact, letter, normalise
from ochatctl.bench.task import Item, grade

PLANETS = ("Venus", "Mars", "Jupiter", "Saturn")

READ = {
    "A": [
        "A: Venus",
        "The answer is A.",
        "The answer is A because it is hot.",
        "The answer is A, not B",
    ],
    "B": [
        "The correct option is B",
        "The answer is $\\boxed{B}$",
        "My answer is\n\n**B**",
        "The best answer is clearly B",
        "A good choice is B",
        "A. Venus\nB. Mars\nAnswer: B",
        "(A) is too hot. So the answer is (B).",
        "B\n\nBecause (A) Venus is too hot.",
        "Let me think. A planet...\n\n(B)",
    ],
    "C": [
        *["C", "c", "(C)", "(c).", "C.", " C\n", "**C**", "“C”", "$C$"],
        *["Jupiter", "jupiter.", "C) Jupiter", "C. Jupiter", "(C) Jupiter", "C, for it is the largest"],
        *["Answer: C", "**Answer:** C", "**Answer: C**", "Answer:\nC", "The answer is: C", "The answer is (C)."],
        "Based on the passage, the correct answer is (C).",
        "The answer is **C. Jupiter**",
        "The answer is C because it is large.",
        "The answer is C, as A is too hot",
        "The answer is B. Wait, no. The answer is C.",
    ],
    "D": [
        "the answer is option D",
        "The answer would be: (D) Saturn",
        "So it must be (D).",
    ],
}
NO_LETTER = [
    *[
        "",
        "   ",
        "...",
        "None",
        "I",
        "I.",
        "I'm sure",
        "A dog",
        "A-frame",
        "E.g., Mars",
        "U.S. is a land",
        "A.I. is fun",
    ],
    *["As an AI, I cannot say", "Explanation: it is big", "I think it is B", "Option B", "The answer is Mars, I think"],
    *["The answer is A dog", "answer: a dog", "The answer is not A", "Neither A nor B"],
]
TWO_LETTERS = [
    *["A or B", "A/B", "A and B", "A, B and C are wrong", "The answer is A or B", "The answer is (A) or (B)"],
    *["The answer is B/C", "The answer is either A or B", "Answer: A or maybe B", "(A) is wrong, so (B)"],
    "A. Venus\nB. Mars\nC. Jupiter\nD. Saturn",
    "The answer is A. Or rather, the answer is B or C.",
]
NO_SUCH_OPTION = ["F", "(F)", "The answer is F", "The answer is (Z).", "[E]"]
NOT_READ = NO_LETTER + TWO_LETTERS + NO_SUCH_OPTION
SMALL = st.characters(exclude_categories=["Lu", "Cs"], max_codepoint=0x24F)
WORDS = [
    "A",
    "B",
    "C",
    "F",
    "a",
    "(A)",
    "(B)",
    "answer is",
    "Answer:",
    "or",
    "and",
    "not",
    ".",
    ",",
    "\n",
    "**",
    "dog",
    "I",
]


@pytest.mark.parametrize(("expected", "text"), [(value, text) for value, texts in READ.items() for text in texts])
def test_a_letter_is_read(text: str, expected: str) -> None:
    assert letter(text, PLANETS) == expected


@pytest.mark.parametrize("text", NOT_READ)
def test_what_names_no_single_option_is_unmatched(text: str) -> None:
    assert letter(text, PLANETS) is None


@pytest.mark.parametrize("text", NOT_READ)
@pytest.mark.parametrize("label", ["A", "B", "C", "D"])
def test_an_unmatched_answer_is_right_under_no_label(text: str, label: str) -> None:
    item = Item(id="t:1", prompt="?", labels=(label,), extractor="letter", options=PLANETS)
    score = grade(item, text)
    assert not score.answer.matched
    assert not score.right


@settings(deadline=None, max_examples=150)
@given(
    text=st.one_of(st.text(max_size=40), st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join)),
    label=st.sampled_from("ABC"),
)
def test_an_unmatched_answer_is_never_scored_as_a_letter(text: str, label: str) -> None:
    options = ("Venus", "Mars", "Jupiter")
    score = grade(Item(id="t:1", prompt="?", labels=(label,), extractor="letter", options=options), text)
    value = score.answer.value
    assert value is None or value in "ABC"
    assert score.right == (value == label)
    if value is None:
        assert not score.right
    else:
        # It is there in the text, as a letter or as the option's own words.
        assert value in text.upper() or normalise(options["ABC".index(value)]) == normalise(text)


@settings(deadline=None, max_examples=100)
@given(text=st.text(alphabet=SMALL, min_size=2))
def test_a_text_without_a_capital_letter_is_read_only_as_a_whole(text: str) -> None:
    found = letter(text, PLANETS)
    assert found is None or sum(char.isalnum() for char in text) == 1 or normalise(text) in map(normalise, PLANETS)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("Paris", "Paris."),
        ("  paris. ", "Paris"),
        ("**Paris**", "Paris"),
        ('"Paris!"', "PARIS"),
        ("New\n York", "new york"),
        ("１２", "12"),
    ],
)
def test_exact_match_looks_past_case_space_and_closing_marks(text: str, label: str) -> None:
    assert exact(text) == normalise(label)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("-10", "10"),
        ("5 %", "5"),
        ("12.5", "125"),
        ("The capital is Paris", "Paris"),
        ("Paris, France", "Paris"),
    ],
)
def test_exact_match_forgives_nothing_inside(text: str, label: str) -> None:
    assert exact(text) != normalise(label)


@pytest.mark.parametrize("text", ["", " \n", "...", "**"])
def test_an_empty_answer_is_unmatched(text: str) -> None:
    assert exact(text) is None


def test_extractors_are_found_by_name() -> None:
    assert set(EXTRACTORS) == {"letter", "letter_cot", "exact", "number", "stated"}
