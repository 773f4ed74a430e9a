"""Tokens -> deltas: where an answer ends, what its text is, and when a piece of it may be shown.

in: token ids one by one, out: Delta. Every engine comes through here, so that they cannot disagree.
"""

from ochatctl.chat.tokenizer import Detokenizer, Tokenizer
from ochatctl.engine.base import Delta, FinishReason, SamplingSpec, TokenLogprob


class StopStrings:
    """Cuts a text that comes in pieces at the stop string that is complete first; of two, at the longer.

    Guarantees: the pieces given, joined, are the same wherever the text was split.
    """

    def __init__(self, stop: tuple[str, ...]) -> None:
        self._stop = stop
        # The longest tail of the text so far that may become a stop string.
        self._held = ""
        self.hit = False

    def push(self, text: str) -> str:
        """Give the text that can no longer be part of a stop string."""
        text = self._held + text
        ends = [(start + len(stop), start) for stop in self._stop if (start := text.find(stop)) >= 0]
        if ends:
            self.hit, self._held = True, ""
            return text[: min(ends)[1]]
        longest = max((len(stop) for stop in self._stop), default=1)
        for start in range(max(0, len(text) - longest + 1), len(text)):
            if any(stop.startswith(text[start:]) for stop in self._stop):
                self._held = text[start:]
                return text[:start]
        self._held = ""
        return text

    def flush(self) -> str:
        """Give what is held back, once no more text comes."""
        held, self._held = self._held, ""
        return held


class Answer:
    """One answer under way: takes its tokens as they are drawn, gives its deltas.

    Guarantees: as `Delta` says, whatever the order of calls; tokens after the end are ignored.
    """

    def __init__(self, tokenizer: Tokenizer, spec: SamplingSpec, *, room_tokens: int) -> None:
        self._detokenizer = Detokenizer(tokenizer, spec.context_ids)
        self._stop_strings = StopStrings(spec.stop)
        self._stop_token_ids = frozenset(spec.stop_token_ids)
        self._max_tokens = min(spec.max_tokens, room_tokens)
        self._period = spec.stream_period
        self._text = ""
        self._token_ids: list[int] = []
        self._logprobs: list[TokenLogprob] = []
        self._started = False
        self.num_tokens = 0
        self.finish_reason: FinishReason | None = None

    def push(self, token_id: int, logprob: TokenLogprob | None = None) -> Delta | None:
        """Take the next token; give a delta where one is due."""
        if self.finish_reason is not None:
            return None
        self.num_tokens += 1
        self._token_ids.append(token_id)
        if logprob is not None:
            self._logprobs.append(logprob)
        if token_id in self._stop_token_ids:
            return self.finish("stop")
        self._text += self._stop_strings.push(self._detokenizer.push([token_id]))
        if self._stop_strings.hit:
            return self.finish("stop")
        if self.num_tokens >= self._max_tokens:
            return self.finish("length")
        if not self._text or (self._started and len(self._token_ids) < self._period):
            return None
        self._started = True
        return self._delta()

    def finish(self, reason: FinishReason) -> Delta:
        """End the answer; give the last delta. Called from outside where an engine itself knows the end."""
        if not self._stop_strings.hit:
            self._text += self._stop_strings.push(self._detokenizer.flush())
            # Half a character may complete a stop string of U+FFFD only; else nothing is left to wait for.
            self._text += self._stop_strings.flush()
        self.finish_reason = reason
        return self._delta()

    def _delta(self) -> Delta:
        delta = Delta(
            token_ids=tuple(self._token_ids),
            text=self._text,
            finish_reason=self.finish_reason,
            logprobs=tuple(self._logprobs),
        )
        self._text, self._token_ids, self._logprobs = "", [], []
        return delta
