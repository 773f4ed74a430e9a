"""What goes in and out of an engine: token ids in, deltas out. No engine knows a chat template."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

FinishReason = Literal["stop", "length", "abort", "error"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingSpec:
    """How one answer is drawn.

    Units: `max_tokens` counts generated tokens, the stop token included. `stop_token_ids` end the answer and give no
    text; `stop` strings end it and are cut off. `temperature` 0 is greedy. `top_k` 0 and `min_p` 0 are off.
    """

    max_tokens: int
    temperature: float = 0.7
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    # None: no log-probabilities; else how many alternatives beside the chosen token.
    num_logprobs: int | None = None
    # Tokens that one delta may gather; 1 streams each as it comes.
    stream_period: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenLogprob:
    """The log-probability of one token, natural logarithm, with the likeliest alternatives."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Delta:
    """What an answer has grown by.

    Guarantees: the texts of all deltas, joined, are the answer; the last delta, and only that, has a finish reason.
    """

    token_ids: tuple[int, ...] = ()
    text: str = ""
    finish_reason: FinishReason | None = None
    logprobs: tuple[TokenLogprob, ...] = ()


class Engine(Protocol):
    """Draws answers. Every method is called on one event loop.

    `generate` starts at its first `anext`; closing or cancelling the iterator aborts the answer, and its slot is free
    at the end of the step under way.
    """

    name: str
    # Prompt and answer together fit in this many tokens.
    context_tokens: int
    # Fields of SamplingSpec that this engine cannot honour; a request that sets one is refused.
    unsupported: frozenset[str]

    async def start(self) -> None:
        """Load; returns once answers can be drawn.

        Raises:
            EnvironmentProblem: too little memory, no device.
            RunError: the engine failed to start.
        """
        ...

    def generate(self, prompt_ids: Sequence[int], spec: SamplingSpec) -> AsyncIterator[Delta]:
        """Give the deltas of one answer.

        Raises:
            RunError: the engine died.
        """
        ...

    def check_alive(self) -> None:
        """Raise RunError where the engine has died."""
        ...

    async def close(self) -> None:
        """Stop; no process or thread of it is left."""
        ...
