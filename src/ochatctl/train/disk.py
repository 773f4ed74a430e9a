"""What a run writes, in bytes. No torch."""

from ochatctl.train.config import TrainConfig

# Two float32 values a weight.
_ADAM_BYTES = 8


def resume_bytes(config: TrainConfig, num_parameters: int) -> int:
    """Give what one resume checkpoint takes: weights and optimizer of all ranks.

    Units: measured on a small model and two ranks; small files of some kilobytes each are left out.
    """
    if config.strategy == "fsdp" or config.zero_stage == 3:
        weights = 4  # float32, in shards
    elif config.dtype == "float32":
        weights = 4 if config.zero_stage == 0 else 8  # whole, and the optimizer's own in shards
    else:
        weights = 6
    return num_parameters * (weights + _ADAM_BYTES)


def saves_resume(config: TrainConfig) -> bool:
    """Whether resume checkpoints are written without being asked by a signal."""
    by_epoch = any(config.saves_after(epoch) for epoch in range(config.num_epochs - 1))
    return by_epoch or config.save_every_steps is not None or config.save_every_seconds is not None


def disk_need(config: TrainConfig, *, num_parameters: int, model_bytes: int) -> int:
    """Give what is still to be written: the models that are not there yet, and resume checkpoints.

    While one is written the earlier ones are kept: `keep` of them, and one more. Those that are on disk are counted.
    """
    epochs = [epoch for epoch in range(config.num_epochs) if config.saves_after(epoch)]
    num_models = sum(not config.checkpoint_dir(epoch).is_dir() for epoch in epochs)
    num_there = 0 if config.resume_from is None else 1
    num_resumes = config.keep + 1 - num_there if saves_resume(config) else 0
    return num_models * model_bytes + num_resumes * resume_bytes(config, num_parameters)
