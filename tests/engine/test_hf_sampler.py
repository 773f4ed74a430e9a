"""What is drawn from logits: exact supports, frequencies, penalties, and that no row sees another."""

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ochatctl.engine.base import SamplingSpec
from ochatctl.engine.hf_sampler import Sampler, draw

CPU = torch.device("cpu")
# Probabilities 0.4, 0.3, 0.2, 0.1 at temperature 1, not in order.
PROBS = torch.tensor([0.2, 0.4, 0.1, 0.3])


def sampler(prompt_ids: tuple[int, ...] = (), vocab_size: int = 4, **values: Any) -> Sampler:
    spec = SamplingSpec(**({"max_tokens": 1, "temperature": 1.0} | values))
    return Sampler(spec, prompt_ids, vocab_size=vocab_size, device=CPU)


def frequencies(num_draws: int = 4000, **values: Any) -> dict[int, float]:
    one = sampler(seed=1, **values)
    counts = Counter(draw(PROBS.log()[None], [one])[0][0] for _ in range(num_draws))
    return {token_id: count / num_draws for token_id, count in counts.items()}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, {0: 0.2, 1: 0.4, 2: 0.1, 3: 0.3}),
        ({"temperature": 0.5}, {0: 4 / 30, 1: 16 / 30, 2: 1 / 30, 3: 9 / 30}),
        ({"top_k": 2}, {1: 4 / 7, 3: 3 / 7}),
        ({"top_k": 99}, {0: 0.2, 1: 0.4, 2: 0.1, 3: 0.3}),
        ({"top_p": 0.65}, {1: 4 / 7, 3: 3 / 7}),
        ({"top_p": 0.85}, {0: 2 / 9, 1: 4 / 9, 3: 3 / 9}),
        ({"top_p": 1e-9}, {1: 1.0}),
        ({"min_p": 0.6}, {1: 4 / 7, 3: 3 / 7}),
        ({"top_k": 3, "top_p": 0.7}, {1: 4 / 7, 3: 3 / 7}),
        ({"logit_bias": {1: -100.0, 2: 100.0}}, {2: 1.0}),
    ],
)
def test_tokens_come_as_often_as_they_should(values: dict[str, Any], expected: dict[int, float]) -> None:
    found = frequencies(**values)
    assert found.keys() == expected.keys()
    for token_id, share in expected.items():
        assert found[token_id] == pytest.approx(share, abs=0.04)


def test_tokens_that_are_equally_likely_at_the_edge_all_stay() -> None:
    one = sampler(seed=3, top_k=1)
    assert {draw(torch.zeros(1, 4), [one])[0][0] for _ in range(200)} == {0, 1, 2, 3}


def test_a_nucleus_wider_than_the_first_look_is_found() -> None:
    one = sampler(seed=3, vocab_size=4000, top_p=0.5)
    logits = torch.linspace(0, 1e-3, 4000)[None]
    drawn = {draw(logits, [one])[0][0] for _ in range(300)}
    assert min(drawn) >= 1990
    assert min(drawn) < 2300


def test_penalties_are_those_of_their_formulas() -> None:
    logits = torch.tensor([2.0, -1.0, 0.5, 0.0])
    one = sampler((0, 1), repetition_penalty=2.0, presence_penalty=0.25, frequency_penalty=0.1, logit_bias={3: 1.5})
    for token_id in (2, 2):
        one.remember(token_id)
    changed = logits.clone()
    one.adjust(changed)
    # Prompt and answer are repeated tokens; only the answer's are counted.
    assert changed.tolist() == pytest.approx([1.0, -2.0, 0.25 - 0.2 - 0.25, 1.5])


def test_log_probabilities_are_the_models_own() -> None:
    one = sampler(temperature=0.3, top_k=1, logit_bias={2: 100.0}, num_logprobs=2)
    ((token_id, logprob),) = draw(PROBS.log()[None], [one])
    assert token_id == 2
    assert logprob is not None
    assert logprob.logprob == pytest.approx(torch.tensor(0.1).log().item())
    assert [index for index, _ in logprob.top] == [1, 3]


SETTINGS = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.0, 0.5, 1.0, 2.0]),
        "top_k": st.sampled_from([0, 1, 3, 50]),
        "top_p": st.sampled_from([0.1, 0.9, 1.0]),
        "min_p": st.sampled_from([0.0, 0.2]),
        "repetition_penalty": st.sampled_from([1.0, 1.3]),
        "frequency_penalty": st.sampled_from([0.0, 0.7]),
        "seed": st.integers(0, 5),
    }
)


@given(values=st.lists(SETTINGS, min_size=1, max_size=5), noise=st.integers(0, 1000))
@settings(deadline=None, max_examples=100)
def test_no_row_sees_another(values: list[dict[str, Any]], noise: int) -> None:
    logits = torch.randn(3, len(values), 30, generator=torch.Generator().manual_seed(noise)).round(decimals=1)
    together = [sampler((1, 2), vocab_size=30, **each) for each in values]
    joint = [[token_id for token_id, _ in draw(step, together)] for step in logits]
    for row, each in enumerate(values):
        alone = sampler((1, 2), vocab_size=30, **each)
        assert [draw(step[row : row + 1], [alone])[0][0] for step in logits] == [drawn[row] for drawn in joint]


def test_greedy_takes_the_likeliest_and_no_chance() -> None:
    assert {draw(PROBS.log()[None], [sampler(temperature=0.0)])[0][0] for _ in range(20)} == {1}
