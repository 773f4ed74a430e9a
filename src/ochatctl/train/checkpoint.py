"""A trained model as a Hugging Face folder: weights, configs, the base's tokenizer, chat template, openchat.json."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from ochatctl.chat.families import Family, write_chat_files
from ochatctl.chat.tokenizer import Tokenizer, copy_tokenizer
from ochatctl.errors import RunError
from ochatctl.files import atomic_dir, read_json, write_json
from ochatctl.train.adapters import merged_state, write_adapter
from ochatctl.train.config import TrainConfig
from ochatctl.train.course import Course, Progress
from ochatctl.train.ranks import Ranks
from ochatctl.train.records import Record, Saved, SaveFailed
from ochatctl.train.strategies.base import Strategy

# Writing a file takes a second copy of it in memory.
_FILE_SIZE = "5GB"
_GENERATION_CONFIG = "generation_config.json"


class Exporter:
    """Saves the model after an epoch. A disk that fails does not end the run: it is said, and training goes on."""

    def __init__(
        self,
        config: TrainConfig,
        strategy: Strategy,
        ranks: Ranks,
        model: Any,
        family: Family,
        tokenizer: Tokenizer,
        conditions: dict[str, int],
        *,
        tell: Callable[[Record], None],
    ) -> None:
        self._config, self._strategy, self._ranks, self._model = config, strategy, ranks, model
        self._chat = (family, tokenizer, conditions)
        self._tell = tell
        self._unsaved_end = ""

    def save(self, epoch: int, step: int) -> None:
        """Gather the model and write its folder. All ranks call it."""
        config = self._config
        # Adapters are small, and are merged in float32.
        dtype = saved_dtype(config.model_dir) if config.lora is None else torch.float32
        state = self._strategy.full_state(dtype, only_trained=config.saves_adapter)
        path, fault = self._config.checkpoint_dir(epoch), ""
        if self._ranks.is_first:
            try:
                self._write(path, state)
            except (OSError, RuntimeError, SafetensorError) as error:
                fault = str(error)
        has_failed = self._ranks.sums(torch.tensor([float(bool(fault))], device=self._ranks.device))[0] > 0
        if not has_failed:
            self._tell(Saved(epoch=epoch + 1, path=str(path)))
            return
        if self._ranks.is_first:
            self._tell(SaveFailed(step=step, what=f"the model of epoch {epoch + 1}", reason=fault))
            if epoch + 1 == self._config.num_epochs:
                self._unsaved_end = fault

    def make_up_for(self, progress: Progress, course: Course) -> None:
        """Save the model of an epoch whose end is where the run goes on, and which could not be saved then."""
        path = self._config.checkpoint_dir(progress.epoch)
        is_end = course.begins_after(progress.epoch)
        if is_end and self._config.saves_after(progress.epoch) and not path.is_dir():
            self.save(progress.epoch, progress.step)

    def refuse_unsaved_end(self) -> None:
        """End with an error where the trained model could not be saved.

        Raises:
            RunError: it could not.
        """
        if self._unsaved_end:
            raise RunError(
                f"the trained model could not be saved: {self._unsaved_end}",
                hint="make room, then the same command goes on from the last checkpoint",
            )

    def _write(self, path: Path, state: dict[str, torch.Tensor]) -> None:
        family, tokenizer, conditions = self._chat
        save_checkpoint(
            path,
            model=self._model,
            state=state,
            base_dir=self._config.model_dir,
            family=family,
            tokenizer=tokenizer,
            conditions=conditions,
            as_adapter=self._config.saves_adapter,
        )


def save_checkpoint(
    path: Path,
    *,
    model: Any,
    state: dict[str, torch.Tensor],
    base_dir: Path,
    family: Family,
    tokenizer: Tokenizer,
    conditions: dict[str, int],
    as_adapter: bool = False,
) -> None:
    """Write the folder whole or not at all. `model` gives the configs, `state` the weights, in the base's dtype.

    Where the model has adapters, they are merged; or `as_adapter` they are all that is saved, beside the model's
    config, which may say more than the base's.

    Guarantees: the tokenizer's files are the base's, byte for byte.
    """
    dtype = saved_dtype(base_dir)
    from transformers import GenerationConfig

    # transformers refuses to write some published ones, such as Llama 2's own; the base's file is copied instead.
    model.generation_config = GenerationConfig.from_model_config(model.config)
    with atomic_dir(path) as part:
        if as_adapter:
            model.config.save_pretrained(part)
            model.generation_config.save_pretrained(part)
            write_adapter(part, model, state, dtype)
        else:
            state = merged_state(model, _without_ties(model, state))
            state = {name: _cast(value, dtype) for name, value in state.items()}
            model.save_pretrained(part, state_dict=state, is_main_process=True, max_shard_size=_FILE_SIZE)
        _write_dtype(part, dtype)
        copy_tokenizer(base_dir, part)
        write_chat_files(part, family, tokenizer, conditions=conditions)
        _write_generation_config(base_dir, part, family.template.eot_id(tokenizer))
        # safetensors writes files that only their owner can read.
        for file in part.iterdir():
            file.chmod(part.stat().st_mode & 0o666)


def saved_dtype(base_dir: Path) -> torch.dtype:
    """Give the dtype that the base's config names; without one, bfloat16."""
    config = read_json(base_dir / "config.json")
    name = config.get("dtype") or config.get("torch_dtype") or "bfloat16"
    dtype = getattr(torch, str(name), None)
    return dtype if isinstance(dtype, torch.dtype) else torch.bfloat16


def _cast(value: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return value.to(dtype).contiguous() if value.is_floating_point() else value


def _without_ties(model: Any, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Leave out the second name of a tied weight."""
    first_names = {name for name, _ in model.named_parameters()}
    second_names = {name for name, _ in model.named_parameters(remove_duplicate=False)} - first_names
    return {name: value for name, value in state.items() if name not in second_names}


def _write_dtype(target_dir: Path, dtype: torch.dtype) -> None:
    """Name the dtype that was written: `save_pretrained` names the one that was trained in."""
    path = target_dir / "config.json"
    write_json(path, {**read_json(path), "dtype": str(dtype).removeprefix("torch.")})


def _write_generation_config(base_dir: Path, target_dir: Path, eot_id: int) -> None:
    """Copy the base's, if it has one, with the end-of-turn token among those that end an answer."""
    source = base_dir / _GENERATION_CONFIG
    table = read_json(source) if source.is_file() else read_json(target_dir / _GENERATION_CONFIG)
    eos = table.get("eos_token_id")
    ends = eos if isinstance(eos, list) else [] if eos is None else [eos]
    if eot_id not in ends:
        table["eos_token_id"] = [eot_id, *ends] if ends else eot_id
    write_json(target_dir / _GENERATION_CONFIG, table)
