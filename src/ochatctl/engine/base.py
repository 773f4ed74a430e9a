"""What goes in and out of an engine: token ids in, deltas out. No engine knows a chat template."""

from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Literal, Protocol

from ochatctl.errors import ConfigError, DataError

# "stop": a stop token or a stop string. "length": `max_tokens`, or the context is full. Whatever else ends an answer
# is an exception, or the consumer's own doing.
FinishReason = Literal["stop", "length"]
_DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingSpec:
    """How one answer is drawn.

    Units: `max_tokens` counts generated tokens, the stop token included. `stop_token_ids` end the answer and give no
    text; `stop` strings end it and are cut off. `temperature` 0 is greedy. `top_k` 0 and `min_p` 0 are off.
    `repetition_penalty` looks at prompt and answer, the other penalties at the answer.
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
    # None: another draw each time.
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    # The JSON schema, as JSON, that the answer meets; empty: any text.
    json_schema: str = ""
    # The name of the adapters that draw, of those that the engine was started with; empty: the model as it is.
    adapter: str = ""
    # None: no log-probabilities; else how many alternatives beside the chosen token.
    num_logprobs: int | None = None
    # Tokens that one delta may gather; 1 streams each as it comes.
    stream_period: int = 1
    # Where the prompt leaves an assistant message open, its last tokens (`Prompt.context_ids`), else empty: a fresh
    # message drops its tokenizer's dummy space, a continued one keeps it. Touches the text only, never what is drawn.
    context_ids: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenLogprob:
    """The log-probability of one token, natural logarithm, with the likeliest alternatives, best first.

    It is the model's own: before temperature, penalties and bias.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Delta:
    """What an answer has grown by.

    Guarantees: the texts of all deltas, joined, are the answer, and their `token_ids`, joined, all tokens drawn, stop
    token included; the last delta, and only that, has a finish reason; only the last may have no text. `logprobs` is
    empty, or has one entry a token. Text may come later than its token: half a character or what may become a stop
    string is held back.
    """

    token_ids: tuple[int, ...] = ()
    text: str = ""
    finish_reason: FinishReason | None = None
    logprobs: tuple[TokenLogprob, ...] = ()


class Engine(Protocol):
    """Draws answers. Every method is called on one event loop, between `start` and `close`.

    `generate` starts at its first `anext`; closing the generator (`aclose`, cancellation) aborts the answer, and its
    slot is free at the end of the step under way. An engine is started once; after `close` it stays closed.
    """

    name: str
    # Prompt and answer together fit in this many tokens. Known once `start` has returned.
    context_tokens: int
    # Fields of SamplingSpec that this engine cannot honour; a request that sets one is refused.
    unsupported: frozenset[str]

    @property
    def num_running(self) -> int:
        """Answers that hold a slot; 0 soon after the last consumer is done or gone."""
        ...

    @property
    def progress(self) -> int:
        """A number that grows as long as answers are being drawn, whether or not a delta is due yet."""
        ...

    async def start(self) -> None:
        """Load; returns once answers can be drawn. The event loop stays free meanwhile.

        Raises:
            ConfigError: a model or a setting that this engine does not take.
            EnvironmentProblem: too little memory, no device.
            RunError: the engine failed to start.
        """
        ...

    def generate(self, prompt_ids: Sequence[int], spec: SamplingSpec) -> AsyncGenerator[Delta, None]:
        """Give the deltas of one answer.

        Raises:
            DataError: at the first `anext`: an empty prompt, one that leaves no room for a token, a token outside the
                vocabulary, or an unsupported field.
            RunError: the engine died, or was closed meanwhile.
        """
        ...

    def check_alive(self) -> None:
        """Raise RunError where the engine has died or is closed."""
        ...

    async def close(self) -> None:
        """Stop; no process or thread of it is left. Answers under way end in RunError. May be called twice."""
        ...


def check_dtype(dtype: str, *, more: Collection[str] = ()) -> None:
    """Stop where weights cannot be of this kind; `more` are other names that an engine knows.

    Raises:
        ConfigError: names those that they can.
    """
    known = (*_DTYPES, *more)
    if dtype not in known:
        raise ConfigError(f"`--dtype {dtype}` is not one of {', '.join(f'`{name}`' for name in known)}")


def check_request(
    engine: Engine,
    prompt_ids: Sequence[int],
    spec: SamplingSpec,
    *,
    vocab_size: int,
    adapters: Collection[str] = (),
) -> None:
    """Refuse what no engine can draw, and what this one does not support.

    Raises:
        DataError: names the field or the number.
    """
    if not prompt_ids:
        raise DataError("the prompt is empty")
    if len(prompt_ids) >= engine.context_tokens:
        raise DataError(
            f"the prompt has {len(prompt_ids)} tokens, and the context of {engine.context_tokens} leaves no room for"
            " an answer"
        )
    if spec.max_tokens < 1:
        raise DataError(f"`max_tokens` is {spec.max_tokens}, and an answer has at least one token")
    for name, token_ids in (("prompt", prompt_ids), ("logit_bias", spec.logit_bias)):
        outside = next((index for index in token_ids if not 0 <= index < vocab_size), None)
        if outside is not None:
            raise DataError(f"`{name}`: token {outside} is outside the vocabulary of {vocab_size}")
    for spec_field in fields(spec):
        if spec_field.name in engine.unsupported and getattr(spec, spec_field.name) != _default(spec_field.name):
            raise DataError(f"`{spec_field.name}` is not supported by the engine `{engine.name}`")
    if spec.adapter and spec.adapter not in adapters:
        raise DataError(f"`adapter`: the engine `{engine.name}` has no `{spec.adapter}`")


def _default(name: str) -> object:
    return getattr(_DEFAULTS, name)


_DEFAULTS = SamplingSpec(max_tokens=1)
