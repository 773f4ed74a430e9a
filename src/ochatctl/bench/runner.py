"""Ask a model many questions at once, each once: what the journal holds is not asked again.

in: dialogues, a client and a journal, out: the journal, with an answer or an error for each turn
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from ochatctl.bench.journal import Journal, Record
from ochatctl.chat.conversation import Conversation, Message
from ochatctl.engine.client import Ask, ChatClient
from ochatctl.errors import DataError, RemoteError, RunError

# Longer than any retry of the client: what has not ended by then hangs.
DEADLINE_SECONDS = 1800.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Dialogue:
    """User turns that are asked one after the other, each with the answers to those before it in view."""

    id: str
    turns: tuple[str, ...]
    ask: Ask
    system: str = ""
    condition: str = ""


class Watch(Protocol):
    """Who is told how a run goes; `cli.output.Output` is one."""

    def note(self, text: str) -> None:
        """Say something that is not the result."""
        ...

    def progress(self, label: str, total: int | None = None) -> AbstractContextManager[Callable[[int], None]]:
        """Give `advance(count)`."""
        ...


async def ask_all(
    dialogues: Sequence[Dialogue],
    client: ChatClient,
    journal: Journal,
    *,
    concurrency: int,
    advance: Callable[[int], None] = lambda count: None,
    deadline_seconds: float = DEADLINE_SECONDS,
) -> None:
    """Ask every turn that the journal has no answer to, in order, at most `concurrency` at a time.

    Guarantees: an answer is in the journal before the next question of its place is asked. A question whose request
    failed gets an error record, and the next call asks it again.

    Raises:
        RemoteError, RunError: so many requests failed in a row that nothing seems to answer any more.
    """
    waiting = iter(dialogues)
    health = _Health(limit=max(8, 2 * concurrency))

    async def work() -> None:
        for dialogue in waiting:  # shared: each worker takes the next one
            await _ask(dialogue, client, journal, health, deadline_seconds)
            advance(1)

    workers = [asyncio.create_task(work()) for _ in range(min(concurrency, len(dialogues)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


class _Health:
    """Counts failures in a row: one is a row in the journal, many are an endpoint that is down."""

    def __init__(self, *, limit: int) -> None:
        self._limit = limit
        self._num_failures = 0

    def good(self) -> None:
        self._num_failures = 0

    def bad(self, error: RemoteError | RunError) -> None:
        self._num_failures += 1
        if self._num_failures >= self._limit:
            raise type(error)(f"{self._num_failures} questions in a row failed: {error.message}", hint=error.hint)


async def _ask(
    dialogue: Dialogue, client: ChatClient, journal: Journal, health: _Health, deadline_seconds: float
) -> None:
    messages: tuple[Message, ...] = ()
    for turn, text in enumerate(dialogue.turns, start=1):
        messages += (Message(role="user", content=text),)
        record = journal.answer(dialogue.id, turn)
        if record is None:
            record = await _one(dialogue, turn, messages, client, journal, health, deadline_seconds)
        if record.text is None:
            return  # the turns after it would be asked about an answer that is not there
        messages += (Message(role="assistant", content=record.text),)


async def _one(
    dialogue: Dialogue,
    turn: int,
    messages: tuple[Message, ...],
    client: ChatClient,
    journal: Journal,
    health: _Health,
    deadline_seconds: float,
) -> Record:
    conversation = Conversation(id=dialogue.id, messages=messages, system=dialogue.system, condition=dialogue.condition)
    started = time.monotonic()
    failure: RemoteError | RunError | DataError
    try:
        async with asyncio.timeout(deadline_seconds):
            reply = await client.complete(conversation, dialogue.ask)
    except TimeoutError:
        failure = RemoteError(f"no answer within {deadline_seconds:g} seconds")
    except (RemoteError, RunError, DataError) as error:
        failure = error
    else:
        health.good()
        record = Record(
            id=dialogue.id,
            turn=turn,
            text=reply.text,
            finish_reason=reply.finish_reason,
            num_prompt_tokens=reply.num_prompt_tokens,
            num_answer_tokens=reply.num_answer_tokens,
            seconds=round(time.monotonic() - started, 3),
            time=round(time.time(), 3),
        )
        journal.append(record)
        return record
    record = Record(
        id=dialogue.id, turn=turn, error=f"{type(failure).__name__}: {failure.message}", time=round(time.time(), 3)
    )
    journal.append(record)
    if not isinstance(failure, DataError):  # that is the question's own fault
        health.bad(failure)
    return record
