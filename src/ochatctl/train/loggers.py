"""Who hears of steps and evaluations beside `metrics.jsonl`: TensorBoard, Weights & Biases. On the first rank alone.

`require_loggers` runs in the parent, before a GPU is taken. No torch where none is asked for.
"""

import contextlib
import dataclasses
import os
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ochatctl.config import did_you_mean, to_table
from ochatctl.errors import ConfigError, EnvironmentProblem
from ochatctl.extras import require
from ochatctl.files import atomic_file
from ochatctl.train.config import LoggerName, TrainConfig
from ochatctl.train.records import Evaluated, Stepped

TENSORBOARD_DIR = "tensorboard"
WANDB_ID_FILE = "wandb_id"
_WANDB_PROJECT = "ochatctl"
_NAMES: tuple[LoggerName, ...] = ("jsonl", "tensorboard", "wandb")
_NOT_LOGGED = {"step", "num_steps", "num_epochs", "eta_seconds"}


class Logger(Protocol):
    """Takes numbers by name, step after step."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take the numbers of a step."""
        ...

    def close(self) -> None:
        """Write what is still held back."""
        ...


class TensorBoardLogger:
    """Writes event files into `OUT/tensorboard`; those after the step that a run goes on from are hidden."""

    def __init__(self, config: TrainConfig, *, after_step: int) -> None:
        require("tensorboard", extra="log")
        writer = require("torch.utils.tensorboard", extra="log").SummaryWriter
        self._writer: Any = writer(str(config.out_dir / TENSORBOARD_DIR), purge_step=after_step + 1)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WandbLogger:
    """Sends to Weights & Biases, or as `WANDB_MODE` says; an interrupted run goes on as the same one there.

    `WANDB_PROJECT`, `WANDB_ENTITY` and the like hold; the project is else `ochatctl`, and the name that of the folder.

    Raises:
        EnvironmentProblem: nobody is logged in, or it cannot be reached.
    """

    def __init__(self, config: TrainConfig, *, after_step: int) -> None:
        wandb = require("wandb", extra="log")
        id_path = config.out_dir / WANDB_ID_FILE
        if after_step and id_path.is_file():
            run_id = id_path.read_text(encoding="utf-8").strip()
        else:
            run_id = secrets.token_hex(4)
            with atomic_file(id_path) as part:
                part.write_text(run_id + "\n", encoding="utf-8")
        try:
            self._run: Any = wandb.init(
                id=run_id,
                resume="allow",
                project=os.environ.get("WANDB_PROJECT", _WANDB_PROJECT),
                name=os.environ.get("WANDB_NAME", config.out_dir.name),
                dir=str(config.out_dir),
                config=to_table(config),
                # Our standard output is for the parent.
                settings=wandb.Settings(console="off", silent=True),
            )
        except wandb.Error as error:
            raise EnvironmentProblem(
                f"wandb: {error}", hint="`wandb login`, or `WANDB_MODE=offline` before the command"
            ) from error
        # wandb's own count never goes back; ours does, to the checkpoint that a run goes on from.
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({**values, "step": step})

    def close(self) -> None:
        self._run.finish()


class Loggers:
    """All loggers of a run; none on the other ranks."""

    def __init__(self, config: TrainConfig, *, after_step: int) -> None:
        self._all: list[Logger] = []
        if "tensorboard" in config.loggers:
            self._all.append(TensorBoardLogger(config, after_step=after_step))
        if "wandb" in config.loggers:
            self._all.append(WandbLogger(config, after_step=after_step))

    def log(self, record: Stepped | Evaluated) -> None:
        """Tell all of them of a record."""
        if self._all:
            values = numbers_of(record)
            for logger in self._all:
                logger.log(record.step, values)

    def close(self) -> None:
        """Close all of them, also after an error."""
        with contextlib.ExitStack() as stack:
            for logger in self._all:
                stack.callback(logger.close)


def numbers_of(record: Stepped | Evaluated) -> dict[str, float]:
    """Give a record's numbers by name: `train/loss`, `train/class_losses/GPT4`, `eval/loss`."""
    room = "train" if isinstance(record, Stepped) else "eval"
    out: dict[str, float] = {}
    for name, value in dataclasses.asdict(record).items():
        key = f"{room}/{name.removeprefix('eval_')}"
        if name in _NOT_LOGGED or value is None:
            continue
        if isinstance(value, dict):
            out |= {f"{key}/{inner}": float(number) for inner, number in value.items()}
        else:
            out[key] = float(value)
    return out


def read_loggers(text: str) -> tuple[LoggerName, ...]:
    """Read `jsonl,tensorboard,wandb`; `jsonl` is always among them.

    Raises:
        ConfigError: an unknown one.
    """
    asked = [item.strip() for item in text.split(",") if item.strip()]
    for name in asked:
        if name not in _NAMES:
            raise ConfigError(
                f"`--logger {text}`: unknown logger `{name}`{did_you_mean(name, _NAMES)}",
                hint=f"`{'`, `'.join(_NAMES)}`, or several with commas",
            )
    return tuple(name for name in _NAMES if name == "jsonl" or name in asked)


def require_loggers(names: Sequence[LoggerName]) -> None:
    """Check that the packages are there.

    Raises:
        MissingExtra: one is not.
    """
    for name in names:
        if name != "jsonl":
            require(name, extra="log")
