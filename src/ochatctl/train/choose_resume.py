"""Whether a run goes on from a checkpoint, is finished, or starts from the beginning. No torch.

in: what is asked for, the config that it would have alone, and the output folder; out: the config with its checkpoint.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from ochatctl.config import read_run
from ochatctl.errors import ConfigError, DataError, UsageProblem
from ochatctl.lock import check_free
from ochatctl.train.config import RUN_FILE, TrainConfig
from ochatctl.train.request import TrainRequest
from ochatctl.train.resume import RESUME_DIR, ResumePoint, check_config, last_whole, open_checkpoint

_ANEW = {"resume": "no", "yes": True}


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """What `--resume` comes to. With neither a point nor a finished model, the run starts from the beginning."""

    config: TrainConfig
    point: ResumePoint | None = None
    is_finished: bool = False


def choose_resume(request: TrainRequest, config: TrainConfig, notes: list[str]) -> Choice:
    """Decide, and touch nothing.

    Raises:
        UsageProblem: the folder holds something that would be overwritten.
        ConfigError: the interrupted run was another one; names the keys.
        DataError: the checkpoint that is asked for, or every one that there is, is damaged.
        EnvironmentProblem: another process trains in the folder.
    """
    out = config.out_dir
    if config.node_rank == 0:
        check_free(out, saves=True)
    if request.resume not in ("auto", "no"):
        return _from_path(request, config, Path(request.resume).absolute(), notes)
    saved = _saved_things(out)
    if request.resume == "no" or not (out / RUN_FILE).is_file():
        if saved and not request.yes:
            raise UsageProblem(f"`{out}` holds `{saved[-1]}` of an earlier run", hint=request.command(**_ANEW))
        return Choice(config=config)
    if not saved:
        if config.node_rank == 0:  # to the others it may be the run that has just begun
            notes.append(f"`{out}` holds a run that saved nothing; it starts again from the beginning")
        return Choice(config=config)
    point, skipped = last_whole(out)
    notes += skipped
    old = _read_old(out, request)
    config = _as_before(request, config, old)
    is_finished = old.checkpoint_dir(old.num_epochs - 1).name in saved
    check_config(old, config, None if is_finished else point)
    if is_finished:
        notes.append(f"`{out}` holds this run, finished; `--resume no --yes` trains anew")
        return Choice(config=config, is_finished=True)
    if point is None:
        damage = "; ".join(text.removesuffix("; it is skipped").removesuffix(" and is skipped") for text in skipped)
        what = f"every checkpoint there is damaged: {damage}" if skipped else "there is no checkpoint to go on from"
        raise DataError(f"`{out}` holds `{saved[-1]}`, and {what}", hint=request.command(**_ANEW))
    return _go_on(config, point, notes)


def _from_path(request: TrainRequest, config: TrainConfig, path: Path, notes: list[str]) -> Choice:
    if not path.is_dir():
        raise UsageProblem(
            f"`--resume {path}`: no such checkpoint", hint=f"`auto`, `no`, or a folder `OUT/{RESUME_DIR}/step_N`"
        )
    if (path / RESUME_DIR).is_dir():  # a run's folder: the checkpoint is named, lest another one is meant
        last, _ = last_whole(path)
        raise UsageProblem(
            f"`--resume {path}` is a run, not one of its checkpoints",
            hint=request.command(resume=last.path) if last else f"`{path / RESUME_DIR}` holds no whole one",
        )
    point = open_checkpoint(path)
    old_out = path.parent.parent
    if old_out != config.out_dir and _saved_things(config.out_dir) and not request.yes:
        raise UsageProblem(f"`{config.out_dir}` holds another run", hint=request.command(yes=True))
    old = _read_old(old_out, request)
    config = _as_before(request, config, old)
    check_config(old, config, point)
    return _go_on(config, point, notes)


def _go_on(config: TrainConfig, point: ResumePoint, notes: list[str]) -> Choice:
    progress = point.manifest.progress
    notes.append(f"going on after step {progress.step} of {point.manifest.num_steps}, from `{point.path}`")
    if point.manifest.ranks != config.num_ranks:
        notes.append(
            f"on {config.num_ranks} rank{'s' if config.num_ranks > 1 else ''}, after {point.manifest.ranks}: dropout, "
            "if any, draws other numbers than without the interruption"
        )
    last = progress.segments[-1]
    if (last.bins_per_step, last.bin_tokens) != (config.bins_per_step, config.batch_tokens):
        notes.append(
            f"a step is {config.bins_per_step} batches of {config.batch_tokens} tokens, after {last.bins_per_step} of "
            f"{last.bin_tokens}: the rows that epoch {progress.epoch + 1} has left are planned again"
        )
    return Choice(config=dataclasses.replace(config, resume_from=point.path), point=point)


def _as_before(request: TrainRequest, config: TrainConfig, old: TrainConfig) -> TrainConfig:
    """Keep what the interrupted run chose for itself and nobody has asked for now."""
    if request.optim.lr is None:
        config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, lr=old.optim.lr))
    batch = request.batch
    if batch.tokens is None and batch.size_per_gpu is None:
        config = dataclasses.replace(config, batch_tokens=old.batch_tokens)
    if batch.accumulation is None and config.batch_tokens == old.batch_tokens:
        # As many batches a step as before, where that many ranks can have them.
        accumulation = max(1, old.bins_per_step // config.num_ranks)
        config = dataclasses.replace(config, accumulation_steps=accumulation)
    return config


def _read_old(out: Path, request: TrainRequest) -> TrainConfig:
    try:
        return read_run(TrainConfig, out / RUN_FILE)
    except ConfigError as error:
        raise ConfigError(error.message, hint=request.command(**_ANEW)) from error


def _saved_things(out: Path) -> list[str]:
    """Give what a run has saved in a folder; a step's folder that has its final name is whole."""
    steps = [f"{RESUME_DIR}/{path.name}" for path in (out / RESUME_DIR).glob("step_*")]
    return sorted(steps) + sorted(path.name for path in out.glob("ep_*"))
