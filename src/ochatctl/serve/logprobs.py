"""Log-probabilities as OpenAI spells them: for chats by bytes, for completions by character offsets."""

import functools

from ochatctl.chat.tokenizer import Tokenizer
from ochatctl.engine.base import Delta, TokenLogprob
from ochatctl.serve.protocol import CompletionLogprobs, ContentLogprob, Logprobs, TopLogprob


class TokenSpeller:
    """Spells the tokens of one model."""

    def __init__(self, tokenizer: Tokenizer, stop_token_ids: tuple[int, ...]) -> None:
        self._tokenizer = tokenizer
        self._stop = frozenset(stop_token_ids)
        self._spell = functools.lru_cache(maxsize=65_536)(self._spell_uncached)

    def __call__(self, token_id: int, *, first: bool = False) -> tuple[str, bytes]:
        """Give a token's text, a half character as OpenAI's `bytes:\\xf0`, and its bytes.

        `first` is a token that begins a text: some tokenizers drop its space.
        """
        return self._spell(token_id, first)

    def shown(self, delta: Delta) -> list[TokenLogprob]:
        """Give a delta's tokens without those that end an answer, as they are no part of its text."""
        return [entry for entry in delta.logprobs if entry.token_id not in self._stop]

    def _spell_uncached(self, token_id: int, first: bool) -> tuple[str, bytes]:
        spelled = self._tokenizer.token_bytes(token_id)
        if first and spelled == b" " + self._tokenizer.decode([token_id]).encode():
            spelled = spelled[1:]
        try:
            return spelled.decode(), spelled
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in spelled), spelled


class ChatLogprobs:
    """Spells the log-probabilities of one request's choices, delta by delta.

    Guarantees: the bytes of a choice's tokens, joined, are its text in UTF-8, but for a half character at its end and
    for a stop string, whose tokens are told too. `fresh` is a text that begins, not one that goes on.
    """

    def __init__(self, spell: TokenSpeller, *, fresh: bool) -> None:
        self._spell = spell
        self._fresh = fresh
        self._begun: set[int] = set()

    def __call__(self, index: int, delta: Delta) -> Logprobs:
        """Give the log-probabilities of a delta of the choice at this index."""
        return Logprobs(content=[self._content(index, entry) for entry in self._spell.shown(delta)])

    def _content(self, index: int, entry: TokenLogprob) -> ContentLogprob:
        first = self._fresh and index not in self._begun
        self._begun.add(index)
        text, spelled = self._spell(entry.token_id, first=first)
        top: list[TopLogprob] = []
        for top_id, logprob in entry.top:
            top_text, top_bytes = self._spell(top_id, first=first)
            top.append(TopLogprob(token=top_text, logprob=logprob, bytes=list(top_bytes)))
        return ContentLogprob(token=text, logprob=entry.logprob, bytes=list(spelled), top_logprobs=top)


class TextLogprobs:
    """The same for completions, which tell where each token stands in the text."""

    def __init__(self, spell: TokenSpeller) -> None:
        self._spell = spell
        self._num_chars: dict[int, int] = {}

    def __call__(self, index: int, delta: Delta) -> CompletionLogprobs:
        """Give the log-probabilities of a delta of the choice at this index."""
        out = CompletionLogprobs(tokens=[], token_logprobs=[], top_logprobs=[], text_offset=[])
        for entry in self._spell.shown(delta):
            text, spelled = self._spell(entry.token_id)
            num_chars = self._num_chars.get(index, 0)
            # A token that goes on with a character stands where that character does.
            begins = not spelled or spelled[0] & 0xC0 != 0x80
            out.tokens.append(text)
            out.token_logprobs.append(entry.logprob)
            out.top_logprobs.append({self._spell(top_id)[0]: logprob for top_id, logprob in entry.top})
            out.text_offset.append(num_chars if begins else max(0, num_chars - 1))
            self._num_chars[index] = num_chars + sum(byte & 0xC0 != 0x80 for byte in spelled)
        return out
