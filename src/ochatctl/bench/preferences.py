"""AlpacaEval's files, and the win rate that preferences come to.

in: `model_outputs.json` or `annotations.json`, out: outputs by instruction, or a WinRate

A preference lies between 1, the reference is better, and 2, the model is; 1.5, and 0 in old files, is a draw; None is a
judgment that could not be read.

Source: tatsu-lab/alpaca_eval 0.6.6, `metrics/helpers.py` (win rate, draws, standard error), `analyze.py` (length).
"""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ochatctl.chat.conversation import check_text
from ochatctl.errors import DataError
from ochatctl.files import read_json, write_json

_DRAW = 1.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """What one model wrote to an instruction: a row of `model_outputs.json`."""

    instruction: str
    output: str
    generator: str
    dataset: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Annotation:
    """A judged pair: a row of `annotations.json`. `output_1` is the reference's, `output_2` the model's."""

    instruction: str
    output_1: str
    generator_1: str
    output_2: str
    generator_2: str
    annotator: str
    preference: float | None
    dataset: str = ""
    raw_completion: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class WinRate:
    """How often a model is preferred to the reference, under alpaca_eval's names.

    Units: `win_rate`, `standard_error` and `discrete_win_rate` are percent, None where there are no, or too few,
    preferences; `avg_length` is characters. `num_unreadable` judgments stand outside all of them.
    """

    win_rate: float | None
    standard_error: float | None
    n_wins: int
    n_wins_base: int
    n_draws: int
    n_total: int
    discrete_win_rate: float | None
    avg_length: int
    num_unreadable: int


def win_rate(annotations: Sequence[Annotation]) -> WinRate:
    """Give the win rate over the preferences that could be read; a draw is half a win."""
    read = [one for one in (_preference(row.preference) for row in annotations) if one is not None]
    wins = [preference - 1 for preference in read]
    # A draw is told before rounding: 1.5 would round to a win.
    discrete = [_DRAW if preference == _DRAW else float(round(preference)) for preference in read]
    lengths = [len(row.output_2) for row in annotations]
    return WinRate(
        win_rate=100 * statistics.fmean(wins) if wins else None,
        standard_error=100 * statistics.stdev(wins) / math.sqrt(len(wins)) if len(wins) > 1 else None,
        n_wins=sum(win > 0.5 for win in wins),
        n_wins_base=sum(win < 0.5 for win in wins),
        n_draws=sum(win == 0.5 for win in wins),
        n_total=len(wins),
        discrete_win_rate=100 * statistics.fmean(one - 1 for one in discrete) if discrete else None,
        avg_length=int(statistics.fmean(lengths)) if lengths else 0,
        num_unreadable=len(annotations) - len(read),
    )


def read_outputs(path: Path) -> tuple[Output, ...]:
    """Read `model_outputs.json`, or AlpacaEval's instructions, whose rows have the same shape.

    Raises:
        DataError: names the file and the row; an instruction that stands twice is one.
    """
    rows = tuple(_output(row, where) for where, row in _rows(path))
    _check_once(path, (row.instruction for row in rows))
    return rows


def write_outputs(path: Path, outputs: Iterable[Output]) -> None:
    """Write `model_outputs.json`."""
    write_json(path, [asdict(output) for output in outputs])


def read_annotations(path: Path) -> tuple[Annotation, ...]:
    """Read `annotations.json`.

    Raises:
        DataError: names the file and the row; a pair that was judged twice is one.
    """
    rows = tuple(_annotation(row, where) for where, row in _rows(path))
    _check_once(path, ((row.generator_1, row.generator_2, row.annotator, row.instruction) for row in rows))
    return rows


def write_annotations(path: Path, annotations: Iterable[Annotation]) -> None:
    """Write `annotations.json`."""
    write_json(path, [{key: value for key, value in asdict(row).items() if key != "raw_completion" or value is not None}
                      for row in annotations])  # fmt: skip


def _preference(value: float | None) -> float | None:
    """Give a preference in its range, an old draw as today's; None where it is none."""
    if value == 0:
        return _DRAW
    return value if value is not None and 1 <= value <= 2 else None


def _rows(path: Path) -> list[tuple[str, dict[str, Any]]]:
    value = read_json(path)
    if not isinstance(value, list) or not value:
        raise DataError(f"{path}: expected a JSON list of rows")
    rows = []
    for number, row in enumerate(value, start=1):
        where = f"{path}: row {number}"
        if not isinstance(row, dict):
            raise DataError(f"{where}: expected a JSON object, found `{type(row).__name__}`")
        rows.append((where, row))
    return rows


def _output(row: dict[str, Any], where: str) -> Output:
    return Output(
        instruction=_text(row, "instruction", where),
        output=_text(row, "output", where, default=""),
        generator=_text(row, "generator", where, default=""),
        dataset=_text(row, "dataset", where, default=""),
    )


def _annotation(row: dict[str, Any], where: str) -> Annotation:
    preference = row.get("preference")
    is_number = isinstance(preference, (int, float)) and not isinstance(preference, bool)
    if preference is not None and not is_number:
        raise DataError(f"{where}: `preference` must be a number or null, found `{preference}`")
    raw = row.get("raw_completion")
    return Annotation(
        instruction=_text(row, "instruction", where),
        output_1=_text(row, "output_1", where),
        generator_1=_text(row, "generator_1", where),
        output_2=_text(row, "output_2", where),
        generator_2=_text(row, "generator_2", where),
        annotator=_text(row, "annotator", where, default=""),
        preference=None if preference is None or math.isnan(preference) else float(preference),
        dataset=_text(row, "dataset", where, default=""),
        raw_completion=None if raw is None else str(raw),
    )


def _text(row: dict[str, Any], key: str, where: str, *, default: str | None = None) -> str:
    value = row.get(key, default)
    if not isinstance(value, str):
        raise DataError(f"{where}: `{key}` must be text, found `{value}`")
    check_text(value, f"{where}: `{key}`")
    return value


def _check_once(path: Path, keys: Iterable[Any]) -> None:
    seen: set[Any] = set()
    for number, key in enumerate(keys, start=1):
        if key in seen:
            raise DataError(f"{path}: row {number} stands in the file twice", hint="keep one of the two rows")
        seen.add(key)
