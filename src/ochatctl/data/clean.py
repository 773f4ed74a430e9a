"""Chat files -> conversations that are fit to be packed, what was left out, and a report that counts every item.

in: chat files of any known format, out: conversation JSONL, what was rejected beside it, and a CleanReport.
"""

import contextlib
import hashlib
import itertools
import json
import os
import pickle
import tempfile
from array import array
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ochatctl.chat.conversation import Conversation, Document, to_json
from ochatctl.data.clean_report import BUILT_IN, CleanReport
from ochatctl.data.formats import Draft, Item, Rejected, expand_inputs, join_parts, read_items, to_draft
from ochatctl.data.ordered_pool import map_in_order
from ochatctl.data.rules import RuleOptions, choose_rules, is_blank, make_rules, rule_table
from ochatctl.data.user_rules import load_rule_files
from ochatctl.errors import ConfigError, DataError
from ochatctl.files import atomic_file

_CHUNK_ITEMS = 32
# Below this, starting processes takes longer than the work.
_MIN_BYTES_PER_WORKER = 8 << 20
_MOST_WORKERS = 16
# Rules that take long enough for workers to be worth it.
_SLOW_RULES = frozenset(("html", "refusal", "language", "contaminated"))


@dataclass(frozen=True, kw_only=True, slots=True)
class CleanOptions:
    """How to clean, beside which rules.

    `sample` is a share of what is left after all rules (a float), or how many of it (an int). `num_workers` None means
    as many as are worth it.
    """

    rule_options: RuleOptions = field(default_factory=RuleOptions)
    rule_files: tuple[Path, ...] = ()
    format: str | None = None
    limit: int | None = None
    sample: float | int | None = None
    seed: int = 0
    num_workers: int | None = 1

    def __post_init__(self) -> None:
        if isinstance(self.sample, float) and not 0 < self.sample <= 1:
            raise ConfigError(f"a share of `{self.sample}` is not above 0 and at most 1")
        if isinstance(self.sample, int) and self.sample < 1:
            raise ConfigError(f"a sample of `{self.sample}` is not at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Cleaned:
    """What the rules made of one item: the line to write, or why there is none.

    `condition` None is a document. `digest` is equal where system message and turns are.
    """

    rejected: Rejected | None = None
    line: str = ""
    digest: bytes = b""
    condition: str | None = None
    mended: tuple[str, ...] = ()


class Cleaner:
    """The rules that see one item at a time, made once a process."""

    def __init__(self, names: Sequence[str], options: CleanOptions) -> None:
        self._rules, self._checks = make_rules(names, options.rule_options)
        self._rules += [rule for rule in load_rule_files(options.rule_files) if rule.name in names]
        self._compat = options.rule_options.compat

    def __call__(self, items: Sequence[Item]) -> list[Cleaned]:
        """Clean a chunk of items, each by itself.

        Raises:
            DataError: a rule of the user's failed; names its file and the item.
        """
        return [self.clean(item) for item in items]

    def clean(self, item: Item) -> Cleaned:
        """Apply the rules to one item until one rejects it."""
        draft = Rejected(reason=item.problem) if item.problem else to_draft(item.value)
        if isinstance(draft, Document):
            return self._clean_document(draft)
        for rule in self._rules:
            if isinstance(draft, Rejected):
                break
            try:
                draft = rule(draft)
            except DataError as error:
                raise DataError(f"{error.message}, at {item.where}", hint=error.hint) from error
        if isinstance(draft, Rejected):
            return Cleaned(rejected=draft)
        return Cleaned(
            line=_to_line(draft.conversation),
            digest=_digest_as_3_2_2(draft) if self._compat else _digest(draft.conversation),
            condition=draft.conversation.condition,
            mended=draft.mended,
        )

    def _clean_document(self, document: Document) -> Cleaned:
        if is_blank(document.text):
            return Cleaned(rejected=Rejected(reason="the text is empty"))
        for check in self._checks:
            if rejected := check([document.text]):
                return Cleaned(rejected=rejected)
        return Cleaned(line=_to_line(document), digest=_digest(document))


def clean_items(
    items: Iterable[Item], report: CleanReport, options: CleanOptions, *, num_workers: int = 1
) -> Generator[tuple[Item, Cleaned], None, None]:
    """Apply the report's rules to items, and count into the report.

    Guarantees: the order is that of the items, with those that `--sample N` decides on last.
    """
    counted = _counted(items, report)
    joined = join_parts(counted) if "join" in report.rules else counted
    args = (list(report.rules), options)
    pairs: Iterator[tuple[Item, Cleaned]] = (
        pair
        for chunk, results in map_in_order(_chunks(joined), Cleaner, args, num_workers=num_workers)
        for pair in zip(chunk, results, strict=True)
    )
    if "duplicate" in report.rules:
        pairs = _reject_duplicates(pairs)
    if isinstance(options.sample, int):
        pairs = _sample_count(pairs, options.sample, options.seed)
    elif options.sample is not None:
        pairs = _sample_share(pairs, options.sample, options.seed)
    for item, cleaned in pairs:
        if cleaned.rejected is not None:
            reason, detail = cleaned.rejected.reason, cleaned.rejected.detail
            report.count_rejected(reason, detail, where=item.where, num_items=item.num_parts)
        else:
            report.num_kept += 1
            report.num_kept_items += item.num_parts
            report.mended.update(cleaned.mended)
            if item.num_parts > 1:
                report.mended["parts joined"] += 1
            if cleaned.condition is None:
                report.num_documents += 1
            else:
                report.conditions[cleaned.condition] += 1
        yield item, cleaned
    report.check()


def clean_files(
    paths: Sequence[Path],
    out_path: Path,
    *,
    rules: Sequence[str] | None = None,
    options: CleanOptions | None = None,
    advance: Callable[[int], None] = lambda count: None,
    say: Callable[[str], None] = lambda text: None,
) -> CleanReport:
    """Clean files, and folders of files, into `out_path`; write what was rejected, and the report, beside it.

    Guarantees: the order is that of the files and of what they hold; the output appears last and whole, and with the
    same bytes whatever the number of workers.

    Raises:
        DataError: an input or a file of rules is missing or fails.
        ConfigError: a rule cannot work as it is set.
        MissingExtra: a rule needs a package that is not installed.
    """
    options = options or CleanOptions()
    report = new_report(choose_rules() if rules is None else rules, options)
    for path in options.rule_files:
        own = [name for name, source in report.rule_sources.items() if source == str(path)]
        say(f"rules of {path}: {', '.join(own)}")
    rejected_path, report_path = rejected_path_of(out_path), report_path_of(out_path)
    report.out_path, report.rejected_path, report.report_path = map(str, (out_path, rejected_path, report_path))
    # A folder may hold what an earlier run wrote.
    ours = {path.absolute() for path in (out_path, rejected_path, report_path)} - {path.absolute() for path in paths}
    files = [path for path in expand_inputs(paths, options.format) if path.absolute() not in ours]
    num_workers = _num_workers(files, report.rules, options)
    items = itertools.islice((item for path in files for item in read_items(path, options.format)), options.limit)
    with (
        atomic_file(out_path) as good_part,
        atomic_file(report_path) as report_part,
        atomic_file(rejected_path) as bad_part,
        good_part.open("w", encoding="utf-8") as good,
        # In ASCII, a lone surrogate of what was rejected is JSON's own escape.
        bad_part.open("w", encoding="ascii") as bad,
        contextlib.closing(clean_items(items, report, options, num_workers=num_workers)) as results,
    ):
        for item, cleaned in results:
            if cleaned.rejected is None:
                good.write(cleaned.line)
            else:
                bad.write(json.dumps(_rejected_record(item, cleaned.rejected), default=str) + "\n")
            advance(item.num_parts)
        report_part.write_text(json.dumps(report.to_json(), indent=2, ensure_ascii=True) + "\n", encoding="ascii")
    return report


def new_report(rules: Sequence[str], options: CleanOptions) -> CleanReport:
    """Give a report with nothing counted: which rules are on, where each comes from, and what they were told.

    Raises:
        ConfigError: a rule lacks what it needs.
        DataError: a file of rules cannot be loaded.
    """
    compat = options.rule_options.compat
    wanted = set(rules) | ({"contaminated"} if options.rule_options.benchmarks else set())
    if "contaminated" in wanted and not options.rule_options.benchmarks:
        raise ConfigError("the rule `contaminated` has no benchmark", hint="add `--decontaminate FILE.jsonl`")
    names = [name for name in rule_table(options.rule_options) if name in wanted]
    sources = dict.fromkeys(names, compat or BUILT_IN)
    sources |= {rule.name: str(rule.path) for rule in load_rule_files(options.rule_files)}
    settings: dict[str, Any] = {}
    if "language" in names:
        settings["languages"] = list(options.rule_options.languages)
    if "contaminated" in names:
        settings["decontaminate"] = [str(path) for path in options.rule_options.benchmarks]
    if options.sample is not None:
        settings |= {"sample": options.sample, "seed": options.seed}
    if options.limit is not None:
        settings["limit"] = options.limit
    if compat:
        settings["compat"] = compat
    # The user's own rules come last but for `duplicate`.
    own = [name for name in sources if name not in names]
    last = [name for name in names if name == "duplicate"]
    return CleanReport(
        rules=[*(name for name in names if name not in last), *own, *last], rule_sources=sources, settings=settings
    )


def rejected_path_of(out_path: Path) -> Path:
    """Give the file beside `F.jsonl` that takes what was rejected, `F.rejected.jsonl`."""
    return out_path.with_name(f"{out_path.name.removesuffix('.jsonl')}.rejected.jsonl")


def report_path_of(out_path: Path) -> Path:
    """Give the file beside `F.jsonl` that takes the report, `F.report.json`."""
    return out_path.with_name(f"{out_path.name.removesuffix('.jsonl')}.report.json")


def parse_sample(text: str) -> float | int:
    """Give `--sample`'s value: a whole number counts conversations, one with a point is a share.

    Raises:
        ConfigError: neither.
    """
    with contextlib.suppress(ValueError):
        return int(text)
    with contextlib.suppress(ValueError):
        return float(text)
    raise ConfigError(f"`--sample {text}` is no number", hint="a share, such as `0.1`, or how many, such as `1000`")


def _counted(items: Iterable[Item], report: CleanReport) -> Iterator[Item]:
    for item in items:
        report.num_input += 1
        yield item


def _chunks(items: Iterable[Item]) -> Iterator[list[Item]]:
    remaining = iter(items)
    while chunk := list(itertools.islice(remaining, _CHUNK_ITEMS)):
        yield chunk


def _num_workers(files: Sequence[Path], rules: Sequence[str], options: CleanOptions) -> int:
    if options.num_workers is not None:
        return options.num_workers
    slow = not _SLOW_RULES.isdisjoint(rules) or bool(options.rule_files)
    num_bytes = sum(path.stat().st_size for path in files if path.is_file())
    return min(_MOST_WORKERS, os.cpu_count() or 1, max(1, num_bytes // _MIN_BYTES_PER_WORKER)) if slow else 1


def _reject_duplicates(pairs: Iterable[tuple[Item, Cleaned]]) -> Iterator[tuple[Item, Cleaned]]:
    seen: set[bytes] = set()
    for item, cleaned in pairs:
        if cleaned.rejected is None and cleaned.digest in seen:
            cleaned = Cleaned(rejected=Rejected(reason="a duplicate"))
        elif cleaned.rejected is None:
            seen.add(cleaned.digest)
        yield item, cleaned


_NOT_IN_SAMPLE = Cleaned(rejected=Rejected(reason="not in the sample"))


def _sample_share(pairs: Iterable[tuple[Item, Cleaned]], share: float, seed: int) -> Iterator[tuple[Item, Cleaned]]:
    """Keep those whose draw is below the share: a draw depends on nothing but the seed and what the item says."""
    for item, cleaned in pairs:
        out = cleaned.rejected is None and _draw(cleaned.digest, seed) >= share * 2.0**64
        yield item, _NOT_IN_SAMPLE if out else cleaned


def _sample_count(pairs: Iterable[tuple[Item, Cleaned]], count: int, seed: int) -> Iterator[tuple[Item, Cleaned]]:
    """Keep those with the lowest draws; which they are is known at the end, and until then they wait on disk."""
    draws = array("Q")
    with tempfile.TemporaryFile() as waiting:
        for item, cleaned in pairs:
            if cleaned.rejected is not None:
                yield item, cleaned
                continue
            draws.append(_draw(cleaned.digest, seed))
            pickle.dump((item, cleaned), waiting)
        lowest = sorted(draws)[:count]
        # Of those that say the same, the first are kept.
        num_at_limit = lowest.count(lowest[-1]) if lowest else 0
        waiting.seek(0)
        for draw in draws:
            item, cleaned = pickle.load(waiting)
            kept = draw < lowest[-1] or (draw == lowest[-1] and num_at_limit > 0)
            num_at_limit -= draw == lowest[-1]
            yield item, cleaned if kept else _NOT_IN_SAMPLE


def _draw(digest: bytes, seed: int) -> int:
    drawn = hashlib.blake2b(digest, digest_size=8, key=str(seed).encode()).digest()
    return int.from_bytes(drawn, "big")


def _to_line(record: Conversation | Document) -> str:
    return json.dumps(to_json(record), ensure_ascii=False) + "\n"


def _rejected_record(item: Item, rejected: Rejected) -> dict[str, Any]:
    record = {"reason": rejected.reason, "detail": rejected.detail, "where": item.where, "item": item.value}
    return record | ({"places": list(item.places)} if item.places else {})


def _digest(record: Conversation | Document) -> bytes:
    said: list[Any] = (
        ["text", record.text]
        if isinstance(record, Document)
        else [record.system, [[message.role, message.content] for message in record.messages]]
    )
    return hashlib.blake2b(json.dumps(said, ensure_ascii=False).encode("utf-8"), digest_size=16).digest()


def _digest_as_3_2_2(draft: Draft) -> bytes:
    """Leave out who says what, where a turn ends, and the system message.

    Source: OpenChat 3.2.2, which compares all texts in one, and how many there are.
    """
    messages = draft.conversation.messages
    text = "".join(message.content for message in messages)
    return hashlib.blake2b(f"{len(messages)} {text}".encode(), digest_size=16).digest()
