"""Ask a judge about answers: what it said stands in a journal of its own, and is read from there.

How to use, from a suite:

    cases = [Case(id="81:1", system="...", prompt="...", read=read_rating) for ...]      # one a judgment
    judging = await judge_all("mtbench", cases, config.judge, folder=out_dir / "judgments", watch=watch)
    for verdict in judging.verdicts:                  # in the order of the cases
        verdict.value                                 # what `read` found; None: unparsed or failed, never a number
        verdict.record                                # the raw text, tokens, `first_logprobs`, or the error
    judging.judge                                     # name, endpoint, what it refused: goes into the report
    judging.num_unparsed, judging.errors              # stand beside every score

`read(record)` gives a value or None, and looks at `record.text` or `record.first_logprobs`; it may raise nothing. A
judgment that it does not read is asked for again, `MAX_TRIES` times in all, and every try is in the journal.

The journal is `FOLDER/JUDGE.jsonl`, with a digest of the address where it is not OpenAI's. A record's id is the case's
with a digest of what was asked, so that a judgment of an answer that has changed since is never taken for one of the
new answer; its `turn` is the number of the try.
`needs=("logprobs",)` where the protocol is nothing without it: then a judge that refuses it is exit 3.
"""

import hashlib
import json
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Generic, TypeVar

from ochatctl.bench.cost import Load, Price, Purse, count_tokens, find_price, is_private, refuse_open_key
from ochatctl.bench.journal import Journal, Record, peek
from ochatctl.bench.pace import Pace
from ochatctl.bench.runner import Asker, Watch, in_parallel
from ochatctl.chat.conversation import Conversation, Message
from ochatctl.engine.client import Ask
from ochatctl.engine.client_http import Dialect, HttpClient
from ochatctl.engine.endpoint import Patience, Refusal
from ochatctl.errors import ConfigError, RemoteError

DEFAULT_JUDGE_URL = "https://api.openai.com/v1"
MAX_TRIES = 3
PATIENCE = Patience(max_retries=6, silence_seconds=300.0, longest_wait_seconds=120.0, retry_silence=True)
_PREFLIGHT = "preflight"
# The mean of GPT-4's judgments on MT-bench, in public files.
_EXPECTED_TOKENS = 190
# A judge that reasons spends tokens before its first word; what it says is not read.
_PREFLIGHT_TOKENS = 16

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeConfig:
    """Who judges: an OpenAI-compatible endpoint and the exact name of its model. The key is sent nowhere else."""

    name: str
    base_url: str = DEFAULT_JUDGE_URL
    api_key: str | None = field(default=None, repr=False)
    concurrency: int = 8
    deadline_seconds: float = 900.0
    patience: Patience = PATIENCE
    max_tries: int = MAX_TRIES
    price: Price | None = None

    @property
    def found_price(self) -> Price | None:
        """The price that was given, else the table's."""
        return self.price or find_price(self.base_url, self.name)

    @property
    def slug(self) -> str:
        """The name as part of a file name."""
        return re.sub(r"[^\w.-]+", "-", self.name).strip("-.") or "judge"

    @property
    def journal_name(self) -> str:
        """The name of its journal: a judge of the same name elsewhere may be another, and has one of its own."""
        where = hashlib.sha256(self.base_url.encode()).hexdigest()[:6]
        return f"{self.slug}.jsonl" if self.base_url == DEFAULT_JUDGE_URL else f"{self.slug}-{where}.jsonl"


@dataclass(frozen=True, kw_only=True, slots=True)
class Case(Generic[T]):
    """One thing to judge: what the judge is asked, and how its answer is read."""

    id: str
    prompt: str
    read: Callable[[Record], T | None]
    system: str = ""
    ask: Ask = field(default_factory=lambda: Ask(temperature=0.0, max_tokens=2048))

    @property
    def key(self) -> str:
        """The case's name in the journal: it changes with every word that is asked."""
        asked = json.dumps([self.system, self.prompt, self.ask.temperature, self.ask.max_tokens, self.ask.top_logprobs])
        return f"{self.id}#{hashlib.sha256(asked.encode('ascii')).hexdigest()[:16]}"

    @property
    def conversation(self) -> Conversation:
        """What is sent."""
        return Conversation(id=self.id, messages=(Message(role="user", content=self.prompt),), system=self.system)


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict(Generic[T]):
    """A judge's decision. Without a value it is unparsed, or with an `error` it failed: it is never a number then."""

    case: Case[T]
    value: T | None
    record: Record | None
    num_tries: int


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeReport:
    """Who judged: the exact name that was asked, what the endpoint calls itself, and which parameters it refused."""

    name: str
    base_url: str
    called_itself: tuple[str, ...] = ()
    # Parameter -> what was done about it.
    refused: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Judging(Generic[T]):
    """All verdicts, in the order of the cases, with what must stand beside a score."""

    judge: JudgeReport
    journal: Path
    verdicts: tuple[Verdict[T], ...]
    num_unparsed: int
    num_asked_again: int
    num_prompt_tokens: int
    num_answer_tokens: int
    errors: tuple[str, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the scores should know of this judge."""
        notes = [f"the judge refuses `{name}`: {what}" for name, what in self.judge.refused.items()]
        if self.num_unparsed:
            notes.append(f"{self.num_unparsed} judgments could not be read, and count nowhere")
        if self.judge.called_itself:
            notes.append(f"the judge calls itself {', '.join(f'`{name}`' for name in self.judge.called_itself)}")
        return tuple(notes)


async def judge_all(
    suite: str,
    cases: Sequence[Case[T]],
    config: JudgeConfig,
    *,
    folder: Path,
    watch: Watch,
    needs: Collection[str] = (),
    purse: Purse | None = None,
    yes: bool = False,
) -> Judging[T]:
    """Get the judgments that the journal lacks; where it lacks none, nothing is sent.

    Raises:
        ConfigError: the judge does not exist, or refuses what the protocol needs.
        RemoteError: nothing answers, or the key is wrong.
    """
    settings = {"suite": suite, "judge": config.name, "judge_base_url": config.base_url}
    with Journal(folder / config.journal_name, settings, yes=yes) as journal:
        missing = [case for case in cases if _verdict(case, journal, config).value is None]
        missing = [case for case in missing if journal.answer(case.key, config.max_tries) is None]
        if len(missing) < len(cases):
            watch.note(f"{len(cases) - len(missing)} of {len(cases)} judgments are in {journal.path} already")
        if missing:
            await _collect(missing, config, journal, watch, needs, purse or Purse())
        return _judging(cases, journal, config)


def judge_load(cases: Sequence[Case[T]], config: JudgeConfig, folder: Path) -> Load:
    """Estimate what the judgments that the journal lacks cost: hand it to `run_dialogues` through `later`."""
    judged = {record_id for record_id, _ in peek(folder / config.journal_name)}
    missing = [case for case in cases if case.key not in judged]
    price = config.found_price
    return Load(
        name=config.name,
        where=config.base_url,
        num_requests=len(missing),
        num_prompt_tokens=sum(count_tokens(case.system, case.prompt) for case in missing),
        num_answer_tokens=sum(min(case.ask.max_tokens or _EXPECTED_TOKENS, _EXPECTED_TOKENS) for case in missing),
        price=price,
        # Whoever serves a judge on the machine next door pays nobody for it, unless a price was typed.
        must_ask=(config.price is not None or not is_private(config.base_url))
        and (price is None or price.of(1, 1) > 0),
    )


async def preflight(config: JudgeConfig, ask: Ask, needs: Collection[str] = ()) -> tuple[Dialect, dict[str, str]]:
    """Ask the judge one word: give what it must be spared, as a dialect and as words for the report.

    Raises:
        ConfigError: no such model, or it refuses one of `needs`; or the key would go over plain HTTP to a public host.
        RemoteError: nothing answers, or the key is wrong.
    """
    refuse_open_key(config.base_url, config.api_key)
    asked = Ask(max_tokens=_PREFLIGHT_TOKENS, temperature=ask.temperature, top_logprobs=ask.top_logprobs)
    renamed: dict[str, str | None] = {}
    refused: dict[str, str] = {}
    hello = Conversation(id=_PREFLIGHT, messages=(Message(role="user", content="Say OK."),))
    while True:
        # Nobody waits half a minute to hear that an address is wrong.
        client = _client(replace(config, patience=replace(config.patience, max_retries=2)), Dialect(renamed=renamed))
        try:
            reply = await client.complete(hello, asked)
            break
        except Refusal as error:
            name = _refused_parameter(error, renamed)
            if name is None:
                raise _no_judge(config, error) from error
            _spare(name, renamed, refused)
        except RemoteError as error:
            raise RemoteError(f"no judge: {error.message}", hint="see `--judge-base-url`") from error
        finally:
            await client.close()
    if asked.top_logprobs is not None and reply.first_logprobs is None:
        refused.setdefault("logprobs", "not given")
    for need in needs:
        if need in refused:
            raise ConfigError(
                f"the judge `{config.name}` refuses `{need}`, and this protocol is nothing without it",
                hint="choose another judge, or a protocol that reads the judge's words",
            )
    return Dialect(renamed=renamed), refused


def _client(
    config: JudgeConfig, dialect: Dialect, on_busy: Callable[[float], None] = lambda wait_seconds: None
) -> HttpClient:
    return HttpClient(
        config.base_url, config.name, config.api_key, patience=config.patience, dialect=dialect, on_busy=on_busy
    )


def _refused_parameter(error: Refusal, renamed: dict[str, str | None]) -> str | None:
    """Give the parameter that a refusal is about, unless it was spared it already."""
    if error.status not in (400, 422):
        return None
    for name in ("max_tokens", "temperature", "top_logprobs", "logprobs"):
        named = error.param == name or (not error.param and re.search(rf"\b{name}\b", error.message))
        if named and name not in renamed:
            return name
    return None


def _spare(name: str, renamed: dict[str, str | None], refused: dict[str, str]) -> None:
    if name == "max_tokens":
        renamed[name] = "max_completion_tokens"
        refused[name] = "sent as `max_completion_tokens`"
    elif name == "temperature":
        renamed[name] = None
        refused[name] = "left out: the judge's own temperature"
    else:
        renamed |= {"logprobs": None, "top_logprobs": None}
        refused["logprobs"] = "left out"


def _no_judge(config: JudgeConfig, error: Refusal) -> ConfigError | RemoteError:
    if error.status == 401:
        return RemoteError(error.message, hint="add `--judge-api-key KEY`, or set `OPENAI_API_KEY`")
    if error.code == "model_not_found" or error.status == 404:
        return ConfigError(
            f"no judge `{config.name}` at `{config.base_url}`: {error.message}",
            hint="name a model that the endpoint lists: `--judge NAME`; many judges of published tables are retired",
        )
    return error


async def _collect(
    missing: Sequence[Case[T]],
    config: JudgeConfig,
    journal: Journal,
    watch: Watch,
    needs: Collection[str],
    purse: Purse,
) -> None:
    dialect, refused = await preflight(config, missing[0].ask, needs)
    journal.append(Record(id=_PREFLIGHT, text=json.dumps(refused)))
    pace = Pace(config.concurrency)
    client = _client(config, dialect, pace.busy)
    asker = Asker(
        client,
        journal,
        pace=pace,
        deadline_seconds=config.deadline_seconds,
        name=config.name,
        meter=purse.meter(config.found_price, journal.records),
        most_failures=max(8, 2 * config.concurrency),
    )
    watch.note(f"asking `{config.name}` at {config.base_url} for {len(missing)} judgments; each goes to {journal.path}")
    try:
        with watch.progress("judgments", len(missing), beside=lambda: str(purse)) as advance:

            async def work(case: Case[T]) -> None:
                for turn in range(1, config.max_tries + 1):
                    record = await asker.answer(case.key, turn, case.conversation, case.ask)
                    if record.text is None or case.read(record) is not None:
                        break
                advance(1)

            await in_parallel(missing, work, most=min(config.concurrency, len(missing)))
    finally:
        await client.close()


def _verdict(case: Case[T], journal: Journal, config: JudgeConfig) -> Verdict[T]:
    """Read what the journal holds of a case: the first try that can be read, else the last one."""
    tries = [record for turn in range(1, config.max_tries + 1) if (record := journal.record(case.key, turn))]
    for record in tries:
        if record.error is None and (value := case.read(record)) is not None:
            return Verdict(case=case, value=value, record=record, num_tries=record.turn)
    return Verdict(case=case, value=None, record=tries[-1] if tries else None, num_tries=len(tries))


def _judging(cases: Sequence[Case[T]], journal: Journal, config: JudgeConfig) -> Judging[T]:
    verdicts = tuple(_verdict(case, journal, config) for case in cases)
    before = journal.answer(_PREFLIGHT)
    records = [record for each in verdicts if (record := each.record) is not None]
    failed = [each for each in verdicts if each.record is None or each.record.error is not None]
    return Judging(
        judge=JudgeReport(
            name=config.name,
            base_url=config.base_url,
            called_itself=tuple(sorted({record.model for record in records if record.model})),
            refused=json.loads(before.text) if before is not None and before.text else {},
        ),
        journal=journal.path,
        verdicts=verdicts,
        num_unparsed=sum(each.value is None for each in verdicts) - len(failed),
        num_asked_again=sum(each.num_tries > 1 for each in verdicts),
        num_prompt_tokens=sum(record.num_prompt_tokens for record in records),
        num_answer_tokens=sum(record.num_answer_tokens for record in records),
        errors=tuple(
            f"{each.case.id}: {each.record.error if each.record is not None else 'not asked'}" for each in failed
        ),
    )
