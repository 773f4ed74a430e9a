"""Ask a chat model: what is asked, what is given back, and what every client can do, wherever its model stands."""

from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from ochatctl.chat.conversation import Conversation

Note = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """How an answer is asked for. `max_tokens` None: all the room that is left; `seed` None: another draw each time.

    `top_logprobs`: how many candidates for the first token an endpoint is to name; a local engine names none.
    """

    max_tokens: int | None = None
    temperature: float = 0.7
    seed: int | None = None
    stop: tuple[str, ...] = ()
    top_logprobs: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """A whole answer. Token counts are 0, and `model` is empty, where an endpoint does not tell them.

    `first_logprobs` are the candidates for the first token, where they were asked for and came.
    """

    text: str
    finish_reason: str
    num_prompt_tokens: int
    num_answer_tokens: int
    model: str = field(default="", compare=False)
    first_logprobs: Mapping[str, float] | None = None


class ChatClient(Protocol):
    """Answers conversations; the last message of one may be an assistant's, which is then continued.

    Raises, from every method:
        PromptTooLong: a DataError; the conversation does not fit the context.
        DataError: a conversation that cannot be encoded.
        RemoteError: an endpoint failed or refused.
        RunError: the engine died.
    """

    def stream(self, conversation: Conversation, ask: Ask) -> AsyncGenerator[str, None]:
        """Give the pieces of an answer as they come; closing the generator stops the answer."""
        ...

    async def complete(self, conversation: Conversation, ask: Ask) -> Reply:
        """Give an answer as a whole."""
        ...

    async def close(self) -> None:
        """Let go of the engine or the connections."""
        ...


class Warnings:
    """Says each warning once, however many answers it goes with."""

    def __init__(self, note: Note | None) -> None:
        self._note = note
        self._said: set[str] = set()

    def say(self, warning: str) -> None:
        if warning and warning not in self._said and self._note is not None:
            self._said.add(warning)
            self._note(f"warning: {warning}")
