"""`ochatctl data stats`."""

import shutil
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from ochatctl.cli.data_view import dataset_path, load_tokenizer
from ochatctl.cli.options import Json, MaybeFamily, MaybeModel, OchatCommand, Quiet, Split
from ochatctl.cli.output import Output, examples

if TYPE_CHECKING:
    from ochatctl.data.stats import Bar, ConversationStats, DatasetStats

_MOST_WEIGHTS_SHOWN = 8
_WIDEST = 100


def register(group: typer.Typer) -> None:
    """Add the command."""
    group.command(
        "stats",
        cls=OchatCommand,
        epilog=examples(
            "ochatctl data stats packed/chats",
            "ochatctl data stats packed/chats --split eval --model DIR --json",
            "ochatctl data stats clean.jsonl",
        ),
    )(stats)


def stats(
    what: Annotated[
        str, typer.Argument(metavar="PREFIX|F.jsonl", help="A packed dataset, or conversations before they are packed.")
    ],
    model: MaybeModel = None,
    family: MaybeFamily = None,
    split: Split = "train",
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Count what a dataset holds: rows, tokens, what of them is learnt, by condition, and how long they are."""
    from ochatctl.data.dataset import open_dataset
    from ochatctl.data.stats import conversation_stats, dataset_stats

    path = dataset_path(what, split, also=(".jsonl",))
    output = Output(as_json=json, quiet=quiet)
    with output.progress("counting") as advance:
        if path.suffix == ".jsonl":
            found = conversation_stats(path, advance=advance)
            output.result(found, lambda: _conversations_text(found))
            return
        dataset = open_dataset(path)
        counted = dataset_stats(dataset, model=load_tokenizer(dataset, model, family), advance=advance)
    output.result(counted, lambda: _dataset_text(counted))


def _dataset_text(stats: "DatasetStats") -> str:
    context = f", context {stats.context_tokens:,} tokens" if stats.context_tokens else ""
    lines = [stats.path, f"family {stats.model_type}{context}", f"{stats.num_rows:>15,} rows"]
    lines.append(f"{stats.num_tokens:>15,} tokens")
    lines.append(f"{stats.num_supervised_tokens:>15,} of them learnt, {stats.supervised_ratio:.1%}")
    lines.append(f"{stats.step_weight:>15,.1f} sum of loss weights")
    turns = f" in {stats.num_turns:,} turns" if stats.num_turns else ""
    lines += [f"{stats.num_answers:>15,} answers that are learnt{turns}", ""]
    if stats.conditions:
        lines.append(f"{'rows':>12} {'tokens':>15} {'learnt':>15}  condition")
        for name, c in sorted(stats.conditions.items()):
            lines.append(f"{c.num_rows:>12,} {c.num_tokens:>15,} {c.num_supervised_tokens:>15,}  {name or 'none'}")
    elif stats.supervised_by_condition:
        lines.append(f"{'learnt':>15}  condition (as the file says; `--model` counts rows and tokens too)")
        lines += [f"{count:>15,}  {name or 'none'}" for name, count in sorted(stats.supervised_by_condition.items())]
    else:
        lines.append("the file does not tell its conditions: give `--model` to see them in its rows")
    lines += ["", *_weight_lines(stats), *_length_lines(stats.length_percentiles, stats.lengths, "tokens of a row")]
    return "\n".join(lines)


def _conversations_text(stats: "ConversationStats") -> str:
    lines = [stats.path, f"{stats.num_conversations:>15,} conversations"]
    if stats.num_documents:
        lines.append(f"{stats.num_documents:>15,} plain text{'s' * (stats.num_documents != 1)}")
    lines.append(f"{stats.num_turns:>15,} turns, {stats.num_answers:,} of them answers")
    lines.append(f"{stats.num_with_system:>15,} with a system message")
    lines += [f"{stats.num_characters:>15,} characters", ""]
    for name, count in stats.conditions.items():
        lines.append(f"{count:>15,} {f'condition {name}' if name else 'without a condition'}")
    lines += ["", *_length_lines(stats.length_percentiles, stats.lengths, "characters of a conversation")]
    return "\n".join(lines)


def _weight_lines(stats: "DatasetStats") -> list[str]:
    if stats.weights is None:
        return ["more loss weights than can be listed, such as `--per-sequence-loss` gives", ""]
    ranked = sorted(stats.weights.items(), key=lambda pair: -pair[1])
    lines = [f"{'tokens':>15}  at loss weight"]
    lines += [f"{count:>15,}  {weight}" for weight, count in ranked[:_MOST_WEIGHTS_SHOWN]]
    if rest := ranked[_MOST_WEIGHTS_SHOWN:]:
        lines.append(f"{sum(count for _, count in rest):>15,}  {len(rest):,} other weights: `--json` has them")
    return [*lines, ""]


def _length_lines(percentiles: dict[str, int], bars: "Sequence[Bar]", unit: str) -> list[str]:
    if not bars:
        return []
    names = {"100": "longest"}
    told = ", ".join(f"{names.get(p, f'{p} %')} {value:,}" for p, value in percentiles.items())
    width = min(shutil.get_terminal_size().columns, _WIDEST)
    return [f"{unit}: {told}", *_histogram(bars, width)]


def _histogram(bars: "Iterable[Bar]", width: int) -> list[str]:
    bars = list(bars)
    labels = [f"{bar.start:,}-{bar.end - 1:,}" for bar in bars]
    label_width, count_width = max(map(len, labels)), max(len(f"{bar.count:,}") for bar in bars)
    room = max(width - label_width - count_width - 5, 8)
    most = max(bar.count for bar in bars)
    # A bar of one conversation among a million is still to be seen.
    return [
        f"  {label:>{label_width}} {bar.count:>{count_width},} {'#' * -(-bar.count * room // most)}".rstrip()
        for label, bar in zip(labels, bars, strict=True)
    ]
