"""Log-probabilities as OpenAI spells them."""

import functools

from ochatctl.chat.tokenizer import Tokenizer
from ochatctl.engine.base import Delta
from ochatctl.serve.protocol import ContentLogprob, Logprobs, TopLogprob


class LogprobWriter:
    """Spells the tokens of one model. The tokens that end an answer are left out, as they are no part of its text."""

    def __init__(self, tokenizer: Tokenizer, stop_token_ids: tuple[int, ...]) -> None:
        self._tokenizer = tokenizer
        self._stop = frozenset(stop_token_ids)
        # A token stands after another one: at the start of a text some tokenizers drop its space.
        self._anchor = tokenizer.encode_text("a")
        self._shown = len(tokenizer.decode(self._anchor))
        self._spell = functools.lru_cache(maxsize=65_536)(self._spell_uncached)

    def __call__(self, delta: Delta) -> Logprobs:
        """Give the log-probabilities of a delta's tokens."""
        return Logprobs(
            content=[
                ContentLogprob(
                    token=self._spell(entry.token_id)[0],
                    logprob=entry.logprob,
                    bytes=self._spell(entry.token_id)[1],
                    top_logprobs=[
                        TopLogprob(token=self._spell(top_id)[0], logprob=logprob, bytes=self._spell(top_id)[1])
                        for top_id, logprob in entry.top
                    ],
                )
                for entry in delta.logprobs
                if entry.token_id not in self._stop
            ]
        )

    def _spell_uncached(self, token_id: int) -> tuple[str, list[int] | None]:
        if token_id in self._tokenizer.control_ids:
            text = self._tokenizer.token_text(token_id)
        else:
            text = self._tokenizer.decode([*self._anchor, token_id])[self._shown :]
            if not text or "\ufffd" in text:
                # Part of a character: the vocabulary's own spelling, and no bytes that would be wrong.
                return self._tokenizer.token_text(token_id), None
        return text, list(text.encode())
