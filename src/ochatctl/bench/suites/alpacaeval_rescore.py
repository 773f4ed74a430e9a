"""AlpacaEval's `annotations.json`, scored as alpaca_eval does."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

    @property
    def lines(self) -> tuple[tuple[str, ...], ...]:
        """A row a model."""
        return tuple(
            (
                each.model,
                _shown(each.rate.win_rate),
                _shown(each.rate.standard_error),
                str(each.rate.n_total),
                f"{each.rate.num_unreadable} unreadable" if each.rate.num_unreadable else "-",
            )
            for each in self.models
        )


def is_annotation(row: Any) -> bool:
    """Tell a row of annotations."""
    return isinstance(row, dict) and {"instruction", "output_1", "output_2", "preference"} <= set(row)


def rescore_annotations(path: Path) -> AnnotationsFile:
    """Score a file of annotations.

    Raises:
        DataError: names the file and the row.
    """
    by_model: dict[tuple[str, str, str], list[Annotation]] = {}
    for row in read_annotations(path):
        by_model.setdefault((row.generator_2, row.generator_1, row.annotator), []).append(row)
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
    )


def _model(names: tuple[str, str, str], rows: Sequence[Annotation]) -> ModelRate:
    model, reference, annotator = names
    return ModelRate(model=model, reference=reference, annotator=annotator, rate=win_rate(rows))


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} %"
