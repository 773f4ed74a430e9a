"""Ask a model many questions at once, each once: what the journal holds is not asked again.

in: dialogues (or whatever a suite asks), a client and a journal, out: the journal, with an answer or an error each
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, TypeVar

from ochatctl.bench.journal import Journal, Record
from ochatctl.bench.pace import Pace
from ochatctl.chat.conversation import Conversation, Message
from ochatctl.engine.client import Ask, ChatClient
from ochatctl.errors import DataError, RemoteError, RunError

# Longer than any retry of the client: what has not ended by then hangs.
DEADLINE_SECONDS = 1800.0

T = TypeVar("T")


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

    def confirm(self, question: str) -> bool | None:
        """Give the user's yes or no; None where there is nobody to ask."""
        ...

    def progress(
        self, label: str, total: int | None = None, *, beside: Callable[[], str] | None = None
    ) -> AbstractContextManager[Callable[[int], None]]:
        """Give `advance(count)`; `beside` is a text that stands beside the bar and changes with it."""
        ...


class Meter(Protocol):
    """Who counts what requests cost; `bench.cost.Budget` is one."""

    def before(self, conversation: Conversation, ask: Ask) -> float:
        """Set aside what a request may cost; raises where that is more than is left."""
        ...

    def after(self, reserved: float, record: Record) -> None:
        """Put in its place what it did cost."""
        ...


class Asker:
    """Asks a client one question at a time, and writes each answer or failure into a journal before it gives it.

    Guarantees: what the journal holds an answer to is not asked. A failure is a record with an `error`; it is no
    answer, and the next run asks again.

    Raises:
        RemoteError, RunError: so many requests failed in a row that nothing seems to answer any more.
    """

    def __init__(
        self,
        client: ChatClient,
        journal: Journal,
        *,
        pace: Pace,
        deadline_seconds: float = DEADLINE_SECONDS,
        name: str = "",
        meter: Meter | None = None,
        most_failures: int = 8,
    ) -> None:
        self.pace = pace
        self._client = client
        self._journal = journal
        self._deadline_seconds = deadline_seconds
        self._name = name
        self._meter = meter
        self._most_failures = most_failures
        self._num_failures = 0

    async def answer(self, item_id: str, turn: int, conversation: Conversation, ask: Ask) -> Record:
        """Give the record of one question."""
        record = self._journal.answer(item_id, turn)
        if record is None:
            async with self.pace.place():
                record = await self._asked(item_id, turn, conversation, ask)
        return record

    async def _asked(self, item_id: str, turn: int, conversation: Conversation, ask: Ask) -> Record:
        reserved = self._meter.before(conversation, ask) if self._meter is not None else 0.0
        record, failure = await self._record(item_id, turn, conversation, ask)
        if self._meter is not None:
            self._meter.after(reserved, record)
        self._journal.append(record)
        if failure is None:
            self._num_failures = 0
            self.pace.good()
        elif not isinstance(failure, DataError):  # that is the question's own fault
            self._num_failures += 1
            if self._num_failures >= self._most_failures:
                kind = RunError if isinstance(failure, RunError) else RemoteError
                raise kind(f"{self._num_failures} questions in a row failed: {failure.message}", hint=failure.hint)
        return record

    async def _record(
        self, item_id: str, turn: int, conversation: Conversation, ask: Ask
    ) -> tuple[Record, RemoteError | RunError | DataError | None]:
        started = time.monotonic()
        failure: RemoteError | RunError | DataError
        try:
            async with asyncio.timeout(self._deadline_seconds):
                reply = await self._client.complete(conversation, ask)
        except TimeoutError:
            failure = RemoteError(f"no answer within {self._deadline_seconds:g} seconds")
        except (RemoteError, RunError, DataError) as error:
            failure = error
        else:
            return Record(
                id=item_id,
                turn=turn,
                text=reply.text,
                finish_reason=reply.finish_reason,
                num_prompt_tokens=reply.num_prompt_tokens,
                num_answer_tokens=reply.num_answer_tokens,
                seconds=round(time.monotonic() - started, 3),
                time=round(time.time(), 3),
                model=reply.model if reply.model not in ("", self._name) else None,
                first_logprobs=dict(reply.first_logprobs) if reply.first_logprobs is not None else None,
            ), None
        # By the family's name: what a reader tells apart is whom to blame, an endpoint, an engine or the question.
        kind = next(each for each in (RemoteError, RunError, DataError) if isinstance(failure, each))
        return Record(
            id=item_id, turn=turn, error=f"{kind.__name__}: {failure.message}", time=round(time.time(), 3)
        ), failure


async def in_parallel(items: Iterable[T], work: Callable[[T], Awaitable[None]], *, most: int) -> None:
    """Do the work of each item, begun in order, at most `most` at a time; one that raises ends all."""
    waiting = iter(items)

    async def worker() -> None:
        for item in waiting:  # shared: each worker takes the next one
            await work(item)

    workers = [asyncio.create_task(worker()) for _ in range(most)]
    try:
        await asyncio.gather(*workers)
    finally:
        for each in workers:
            each.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


async def ask_all(
    dialogues: Sequence[Dialogue],
    client: ChatClient,
    journal: Journal,
    *,
    concurrency: int,
    pace: Pace | None = None,
    name: str = "",
    meter: Meter | None = None,
    advance: Callable[[int], None] = lambda count: None,
    deadline_seconds: float = DEADLINE_SECONDS,
) -> None:
    """Ask every turn that the journal has no answer to, in order, at most `concurrency` at a time.

    Guarantees: an answer is in the journal before the next question of its place is asked. A question whose request
    failed gets an error record, and the next call asks it again.

    Raises:
        RemoteError, RunError: so many requests failed in a row that nothing seems to answer any more.
    """
    asker = Asker(
        client,
        journal,
        pace=pace or Pace(concurrency),
        deadline_seconds=deadline_seconds,
        name=name,
        meter=meter,
        most_failures=max(8, 2 * concurrency),
    )

    async def work(dialogue: Dialogue) -> None:
        await _talk(dialogue, asker)
        advance(1)

    await in_parallel(dialogues, work, most=min(concurrency, len(dialogues)))


async def _talk(dialogue: Dialogue, asker: Asker) -> None:
    messages: tuple[Message, ...] = ()
    for turn, text in enumerate(dialogue.turns, start=1):
        messages += (Message(role="user", content=text),)
        conversation = Conversation(
            id=dialogue.id, messages=messages, system=dialogue.system, condition=dialogue.condition
        )
        record = await asker.answer(dialogue.id, turn, conversation, dialogue.ask)
        if record.text is None:
            return  # the turns after it would be asked about an answer that is not there
        messages += (Message(role="assistant", content=record.text),)
