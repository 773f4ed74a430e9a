"""One benchmark run of any suite: whom it asks, which journal it goes on with, and what it brings home."""

import dataclasses
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ochatctl.bench.cost import Leave, Load, Purse, ask_leave, count_tokens, find_price, is_private
from ochatctl.bench.journal import FILE_NAME, Journal, Record, digest
from ochatctl.bench.judge import PATIENCE, JudgeConfig
from ochatctl.bench.pace import Pace
from ochatctl.bench.runner import DEADLINE_SECONDS, Dialogue, Watch, ask_all
from ochatctl.bench.target import Endpoint, Identity, Target, identify, open_client
from ochatctl.engine.endpoint import Patience
from ochatctl.memory import gpus

RUNS_DIR = Path("runs/bench")
# Of an answer whose length is not known yet.
EXPECTED_ANSWER_TOKENS = 300
# Prompts and answers together. A 7B model on a few CPUs takes hours for so many, a small one minutes.
_MANY_ON_CPU_TOKENS = 100_000


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """What every suite takes. `out_dir` None is a folder named after the model and the settings.

    `max_tokens` None leaves each question its own limit. `yes` overwrites a journal of other settings, and agrees to
    what a paid endpoint costs; `max_cost`, in dollars, agrees up to a limit. `command` is what was typed, for hints.
    """

    target: Target
    max_tokens: int | None = None
    limit: int | None = None
    system: str = ""
    condition: str = ""
    seed: int = 0
    concurrency: int = 16
    out_dir: Path | None = None
    yes: bool = False
    patience: Patience = PATIENCE
    deadline_seconds: float = DEADLINE_SECONDS
    judge: JudgeConfig | None = None
    max_cost: float | None = None
    command: str = ""

    @property
    def leave(self) -> Leave:
        """What the user agreed to beforehand."""
        return Leave(yes=self.yes, max_cost=self.max_cost, command=self.command)

    def purse(self) -> Purse:
        """Give an empty purse with the run's limit."""
        return Purse(self.max_cost, self.command)


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A run whose every question was asked: the last record of each stands in `records`, and of no other."""

    model: str
    slug: str
    out_dir: Path
    journal: Path
    records: tuple[Record, ...]


async def run_dialogues(
    suite: str,
    content: Mapping[str, Any],
    dialogues: Sequence[Dialogue],
    config: RunConfig,
    watch: Watch,
    *,
    purse: Purse | None = None,
    later: Callable[[Path, Sequence[Record]], Sequence[Load]] = lambda out_dir, records: (),
    ready: Callable[[], Awaitable[object]] | None = None,
) -> Run:
    """Get the answers that the journal lacks; where it lacks none, no engine is started and nothing is sent.

    `content` is what the suite asks, as digests: with it and the settings, a journal knows its own. `limit` is in
    neither, so that a run with a larger one goes on where a smaller one ended.

    Before anything is sent, the user hears what it will be and, where it may cost money, is asked; `later` gives what
    the suite will send afterwards, to a judge, of which the user hears in the same breath. `ready` is awaited then: a
    judge that is not there is heard of before hours of answers, not after.

    Raises:
        UsageProblem: the journal was begun with other content or settings.
        RemoteError, RunError: nothing answers.
    """
    who = await identify(config.target)
    settings = _settings(suite, content, config, who)
    out_dir = config.out_dir or RUNS_DIR / f"{suite}-{who.slug}-{digest(settings)[:8]}"
    given = [
        dataclasses.replace(
            dialogue,
            ask=dataclasses.replace(
                dialogue.ask,
                max_tokens=dialogue.ask.max_tokens if config.max_tokens is None else config.max_tokens,
                seed=config.seed,
            ),
            system=config.system,
            condition=config.condition,
        )
        for dialogue in dialogues
    ]
    with Journal(out_dir / FILE_NAME, settings, yes=config.yes) as journal:
        missing = [dialogue for dialogue in given if not _is_done(dialogue, journal)]
        num_kept = len(given) - len(missing)
        if num_kept:
            watch.note(f"{num_kept} of {len(given)} questions are answered in {journal.path} already")
        load = _load(missing, journal, config, who)
        afterwards = list(later(out_dir, journal.records))
        ask_leave([load, *afterwards], config.leave, watch)
        if missing and ready is not None and any(each.num_requests for each in afterwards):
            await ready()
        if missing:
            await _collect(suite, missing, journal, config, who, watch, purse or config.purse(), load)
        asked = {dialogue.id for dialogue in dialogues}
        records = tuple(record for record in journal.records if record.id in asked)
        return Run(model=who.name, slug=who.slug, out_dir=out_dir, journal=journal.path, records=records)


async def _collect(
    suite: str,
    missing: Sequence[Dialogue],
    journal: Journal,
    config: RunConfig,
    who: Identity,
    watch: Watch,
    purse: Purse,
    load: Load,
) -> None:
    watch.note(f"asking {len(missing)} questions of `{who.name}` at {who.where}; each answer goes to {journal.path}")
    if (slow := _slow(suite, load, config.target)) is not None:
        watch.note(slow)
    pace = Pace(config.concurrency)
    meter = purse.meter(load.price, journal.records)
    async with open_client(config.target, watch.note, patience=config.patience, on_busy=pace.busy) as client:
        with watch.progress("questions", len(missing), beside=lambda: str(purse)) as advance:
            await ask_all(
                missing,
                client,
                journal,
                concurrency=config.concurrency,
                pace=pace,
                name=who.name,
                meter=meter,
                advance=advance,
                deadline_seconds=config.deadline_seconds,
            )
    if pace.num_cuts:
        watch.note(
            f"the endpoint was too busy {pace.num_cuts} times: fewer than {config.concurrency} were asked at once"
        )


def _load(missing: Sequence[Dialogue], journal: Journal, config: RunConfig, who: Identity) -> Load:
    """Estimate what the answers that lack cost; an endpoint of one's own is not asked about."""
    base_url = config.target.base_url if isinstance(config.target, Endpoint) else ""
    price = find_price(base_url, who.name) if base_url and not is_private(base_url) else None
    num_requests = num_prompt_tokens = num_answer_tokens = 0
    for dialogue in missing:
        seen_tokens = count_tokens(dialogue.system)
        expected_tokens = min(dialogue.ask.max_tokens or EXPECTED_ANSWER_TOKENS, EXPECTED_ANSWER_TOKENS)
        for turn, text in enumerate(dialogue.turns, start=1):
            seen_tokens += count_tokens(text)
            if journal.answer(dialogue.id, turn) is None:
                num_requests += 1
                num_prompt_tokens += seen_tokens
                num_answer_tokens += expected_tokens
            seen_tokens += expected_tokens
    return Load(
        name=who.name,
        where=who.where,
        num_requests=num_requests,
        num_prompt_tokens=num_prompt_tokens,
        num_answer_tokens=num_answer_tokens,
        price=price,
        must_ask=price is not None,
    )


def _slow(suite: str, load: Load, target: Target) -> str | None:
    """Give a word of warning where a model of this machine is to answer many questions without a GPU."""
    num_tokens = load.num_prompt_tokens + load.num_answer_tokens
    if num_tokens < _MANY_ON_CPU_TOKENS or isinstance(target, Endpoint) or target.engine == "echo":
        return None
    if sys.platform == "darwin" or gpus():
        return None
    fewer = "`--subset 200` draws 200 questions" if suite == "suite" else "`--limit 10` asks 10 questions"
    return (
        f"note: without a GPU about {num_tokens:,} tokens may take hours; how long is said after the first answers."
        f" {fewer}; Ctrl-C keeps what is answered"
    )


def _is_done(dialogue: Dialogue, journal: Journal) -> bool:
    return all(journal.answer(dialogue.id, turn) is not None for turn in range(1, len(dialogue.turns) + 1))


def _settings(suite: str, content: Mapping[str, Any], config: RunConfig, who: Identity) -> dict[str, Any]:
    sampling = {
        "max_tokens": config.max_tokens,
        "seed": config.seed,
        "system": config.system,
        "condition": config.condition,
    }
    return {"suite": suite, **content, **sampling, **who.settings}
