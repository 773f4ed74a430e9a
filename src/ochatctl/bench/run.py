"""One benchmark run of any suite: whom it asks, which journal it goes on with, and what it brings home."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ochatctl.bench.journal import FILE_NAME, Journal, Record, digest
from ochatctl.bench.runner import Dialogue, Watch, ask_all
from ochatctl.bench.target import Identity, Target, identify, open_client

RUNS_DIR = Path("runs/bench")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """What every suite takes. `out_dir` None is a folder named after the model and the settings."""

    target: Target
    max_tokens: int
    limit: int | None = None
    system: str = ""
    condition: str = ""
    seed: int = 0
    concurrency: int = 16
    out_dir: Path | None = None
    yes: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A run whose every question was asked: the last record of each stands in `records`."""

    model: str
    slug: str
    out_dir: Path
    journal: Path
    records: tuple[Record, ...]


async def run_dialogues(
    suite: str, content: Mapping[str, Any], dialogues: Sequence[Dialogue], config: RunConfig, watch: Watch
) -> Run:
    """Get the answers that the journal lacks; where it lacks none, no engine is started and nothing is sent.

    `content` is what the suite asks, as digests: with it and the settings, a journal knows its own. `limit` is in
    neither, so that a run with a larger one goes on where a smaller one ended.

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
            ask=dataclasses.replace(dialogue.ask, max_tokens=config.max_tokens, seed=config.seed),
            system=config.system,
            condition=config.condition,
        )
        for dialogue in dialogues
    ]
    with Journal(out_dir / FILE_NAME, settings, yes=config.yes) as journal:
        await _collect(given, journal, config, who, watch)
        return Run(model=who.name, slug=who.slug, out_dir=out_dir, journal=journal.path, records=journal.records)


async def _collect(
    dialogues: Sequence[Dialogue], journal: Journal, config: RunConfig, who: Identity, watch: Watch
) -> None:
    missing = [dialogue for dialogue in dialogues if not _is_done(dialogue, journal)]
    num_kept = len(dialogues) - len(missing)
    if num_kept:
        watch.note(f"{num_kept} of {len(dialogues)} questions are answered in {journal.path} already")
    if not missing:
        return
    watch.note(f"asking {len(missing)} questions of `{who.name}` at {who.where}; each answer goes to {journal.path}")
    async with open_client(config.target, watch.note) as client:
        with watch.progress("questions", len(missing)) as advance:
            await ask_all(missing, client, journal, concurrency=config.concurrency, advance=advance)


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
