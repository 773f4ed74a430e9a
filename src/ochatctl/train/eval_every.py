"""When to evaluate and on what: what `--eval-every` and `--eval-data` mean. No torch."""

import re
from dataclasses import dataclass
from pathlib import Path

from ochatctl.data.dataset import open_dataset, split_path
from ochatctl.errors import ConfigError, DataError
from ochatctl.hub import local_data
from ochatctl.train.checks import check_model
from ochatctl.train.request import TrainRequest

_EVERY = re.compile(r"(?P<number>\d+)\s*(?P<unit>steps?|epochs?)?")
_HOLD_OUT = "`ochatctl data pack --eval-ratio 0.01` holds some conversations out"


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalPlan:
    """The held-out rows, and after how many steps or epochs their loss is taken; without a path, never."""

    path: Path | None = None
    every_steps: int | None = None
    every_epochs: int | None = None


def plan_eval(request: TrainRequest, train_path: Path, model_dir: Path, notes: list[str]) -> EvalPlan:
    """Evaluate as asked; where nothing was asked for, after each epoch if there are held-out rows.

    Raises:
        ConfigError: `--eval-every` says no time.
        DataError: what was asked for has no held-out rows, or they do not fit the model.
    """
    steps, epochs = read_eval_every(request.eval_every or "1epoch")
    if steps is None and epochs is None:
        return EvalPlan()
    path = _find(request.eval_data, train_path)
    if path is None or not path.is_file():
        if request.eval_every is None and request.eval_data is None:
            return EvalPlan()
        missing = path or "PREFIX.eval.parquet"
        raise DataError(f"{missing}: no such file to evaluate on", hint=f"{_HOLD_OUT}; `--eval-every no` does without")
    dataset = open_dataset(path)
    if not dataset.step_weights.sum() > 0:
        if request.eval_every is None and request.eval_data is None:
            notes.append(f"no evaluation: `{path.name}` holds nothing to learn")
            return EvalPlan()
        raise DataError(f"{path}: holds nothing to learn, so there is no loss to take", hint=_HOLD_OUT)
    check_model(model_dir, dataset, request.eval_data or str(request.data), needs_weights=False)
    number, unit = steps or epochs or 1, "step" if steps else "epoch"
    every = f"each {unit}" if number == 1 else f"every {number} {unit}s"
    rows = f"{len(dataset)} row{'s' if len(dataset) != 1 else ''}"
    notes.append(f"evaluating {every} on {rows} of `{path.name}`")
    return EvalPlan(path=path, every_steps=steps, every_epochs=epochs)


def read_eval_every(text: str) -> tuple[int | None, int | None]:
    """Read `500`, `500steps` or `2epochs` as (steps, epochs); `no` is neither.

    Raises:
        ConfigError: anything else.
    """
    if text == "no":
        return None, None
    match = _EVERY.fullmatch(text.strip())
    if match is None or int(match["number"]) < 1:
        raise ConfigError(
            f"`--eval-every {text}` is no time to evaluate at", hint="`500`, `500steps`, `1epoch` or `no`"
        )
    number = int(match["number"])
    return (None, number) if (match["unit"] or "").startswith("epoch") else (number, None)


def _find(eval_data: str | None, train_path: Path) -> Path | None:
    """Give the file to evaluate on, whether it is there or not; None for a training file of no known name."""
    if eval_data is not None:
        local = local_data(eval_data)
        return (local if local.name.endswith(".parquet") else split_path(local, "eval")).absolute()
    match = re.fullmatch(r"(?P<prefix>.+)\.(train|\d+)\.parquet", train_path.name)
    return split_path(train_path.with_name(match["prefix"]), "eval") if match else None
