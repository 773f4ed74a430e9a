"""AlpacaEval's `annotations.json`, scored as alpaca_eval does."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ochatctl.bench.length_control import length_controlled
from ochatctl.bench.preferences import Annotation, WinRate, read_annotations, win_rate

KIND = "alpacaeval"


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelRate:
    """One model's win rate against one reference, by one annotator."""

    model: str
    reference: str
    annotator: str
    rate: WinRate


@dataclass(frozen=True, kw_only=True, slots=True)
class AnnotationsFile:
    """The win rates of a file, in percent; those outside `models` are the model's, where the file holds but one."""

    file: Path
    kind: str
    win_rate: float | None
    standard_error: float | None
    n_total: int | None
    avg_length: int | None
    discrete_win_rate: float | None
    models: tuple[ModelRate, ...]
    length_controlled_winrate: float | None = None
    lc_standard_error: float | None = None

    @property
    def lines(self) -> tuple[tuple[str, ...], ...]:
        """A row a model."""
        controlled = self.length_controlled_winrate
        named = "" if controlled is None else f" ({_shown(controlled)} length-controlled)"
        return tuple(
            (
                each.model,
                f"{_shown(each.rate.win_rate)}{named}",
                _shown(each.rate.standard_error),
                str(each.rate.n_total),
                f"{each.rate.num_unreadable} unreadable" if each.rate.num_unreadable else "-",
            )
            for each in self.models
        )


def is_annotation(row: Any) -> bool:
    """Tell a row of annotations."""
    return isinstance(row, dict) and {"instruction", "output_1", "output_2", "preference"} <= set(row)


def rescore_annotations(path: Path, *, with_length_control: bool = False) -> AnnotationsFile:
    """Score a file of annotations; with length control also as alpaca_eval's own package does, which see.

    Raises:
        DataError: names the file and the row.
        MissingExtra, RemoteError: length control without its package, or without its weights.
    """
    annotations = read_annotations(path)
    by_model: dict[tuple[str, str, str], list[Annotation]] = {}
    for row in annotations:
        by_model.setdefault((row.generator_2, row.generator_1, row.annotator), []).append(row)
    controlled = length_controlled(annotations) if with_length_control else None
    models = tuple(_model(names, rows) for names, rows in by_model.items())
    only = models[0].rate if len(models) == 1 else None
    return AnnotationsFile(
        file=path,
        kind=KIND,
        win_rate=only.win_rate if only else None,
        standard_error=only.standard_error if only else None,
        n_total=only.n_total if only else None,
        avg_length=only.avg_length if only else None,
        discrete_win_rate=only.discrete_win_rate if only else None,
        models=models,
        length_controlled_winrate=controlled.length_controlled_winrate if controlled else None,
        lc_standard_error=controlled.lc_standard_error if controlled else None,
    )


def _model(names: tuple[str, str, str], rows: Sequence[Annotation]) -> ModelRate:
    model, reference, annotator = names
    return ModelRate(model=model, reference=reference, annotator=annotator, rate=win_rate(rows))


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} %"
