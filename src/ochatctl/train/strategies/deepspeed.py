"""DeepSpeed's ZeRO: stage 1 shards the optimizer's state, 2 the gradients as well, 3 the weights too."""

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import deepspeed
import torch
from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine
from pydantic import ValidationError

from ochatctl.errors import ConfigError
from ochatctl.presets import merge
from ochatctl.train.config import TrainConfig
from ochatctl.train.handout import Handout
from ochatctl.train.ranks import Ranks
from ochatctl.train.strategies.base import SaveFault, make_optimizer, moments_to_come, set_lr, trained_names

_TAG = "zero"


class DeepSpeedStrategy:
    """A DeepSpeed engine, configured from the run."""

    def __init__(self, model: torch.nn.Module, config: TrainConfig, ranks: Ranks) -> None:
        self.name = f"deepspeed ZeRO-{config.zero_stage}"
        self._zero_stage = config.zero_stage
        self._is_plain = config.zero_stage == 0 and config.dtype == "float32"
        self._is_offloaded = config.offload != "none"
        self._is_first = ranks.is_first
        self._scales = config.dtype == "float16"
        self.has_overflowed = False
        # One rank has no launcher, and DeepSpeed will not begin without what a launcher says.
        os.environ.setdefault("LOCAL_RANK", "0")
        with deepspeed_json_faults():
            hand_out(model, config, ranks)
        self._optimizer = make_optimizer(model, config.optim)
        # At stage 0 in half precision it takes a step with no gradient to begin with: weights must not decay by it,
        # nor the first real one count as the second.
        set_lr(self._optimizer, 0.0)
        with deepspeed_json_faults():
            self.model, *_ = deepspeed.initialize(
                model=model, optimizer=self._optimizer, config=engine_config(config), dist_init_required=False
            )
        if self._zero_stage == 0:
            self._optimizer.state.clear()
        self._engine: Any = self.model
        self._files = _Files()
        self._engine.checkpoint_engine = self._files
        # The script that joins the shards would be copied beside every checkpoint, on rank 0 alone.
        self._engine._copy_recovery_script = lambda folder: None
        if self._scales:
            # At its least scale DeepSpeed would end the rank with a bare exception; the loop counts and reports.
            self._engine.optimizer.loss_scaler.raise_error_at_min_scale = False

    def backward(self, loss: torch.Tensor, *, is_last: bool) -> None:
        self._engine.set_gradient_accumulation_boundary(is_last)
        # Our loss is divided by the whole step's weight already.
        self._engine.backward(loss, scale_wrt_gas=False)

    def step(self, lr: float) -> float:
        set_lr(self._engine.optimizer, lr)
        # Stage 0 in float32 clips as well, and keeps no norm; its gradients are whole on every rank.
        before = self._plain_norm() if self._is_plain else 0.0
        if not math.isfinite(before):
            self._engine.module.zero_grad()
            return before
        scale = self._engine.optimizer.loss_scaler.cur_scale if self._scales else 1.0
        self._engine.step()  # with ZeRO it skips by itself what is not finite
        if self._scales and self._engine.optimizer.overflow:
            self.has_overflowed = scale > 1
            return math.inf
        self.has_overflowed = False
        return before if self._is_plain else float(self._engine.get_global_grad_norm())

    @contextlib.contextmanager
    def rehearsal(self) -> Iterator[None]:
        before = dict(vars(self._engine.optimizer.loss_scaler)) if self._scales else {}
        # Its own float32 copies of the weights; at stage 3 the optimizer is shown them only while it steps.
        weights = getattr(self._engine.optimizer, "fp32_partitioned_groups_flat", None) or [
            weight for group in self._optimizer.param_groups for weight in group["params"]
        ]
        held = [] if self._is_offloaded else moments_to_come(weights, self._optimizer)
        yield
        del held
        if self._scales:
            vars(self._engine.optimizer.loss_scaler).update(before)

    def _plain_norm(self) -> float:
        gradients = [p.grad for p in self._engine.module.parameters() if p.grad is not None]
        return math.hypot(*(float(torch.linalg.vector_norm(gradient)) for gradient in gradients))

    def full_state(self, dtype: torch.dtype, *, only_trained: bool = False) -> dict[str, torch.Tensor]:
        state = {}
        module = self._engine.module
        whole = module.state_dict(keep_vars=True) if self._zero_stage < 3 else dict(module.named_parameters())
        kept = trained_names(module) if only_trained else whole.keys()
        for name, value in whole.items():
            if name not in kept:
                continue
            # One at a time, so that no rank ever holds a second copy of the model.
            with deepspeed.zero.GatheredParameters([value], enabled=self._zero_stage == 3):
                if self._is_first:
                    state[name] = value.detach().to("cpu", dtype if value.is_floating_point() else value.dtype)
        return state

    def save_shards(self, folder: Path) -> Callable[[], object]:
        self._files.fault = ""
        self._engine.save_checkpoint(str(folder), tag=_TAG, save_latest=False, exclude_frozen_parameters=True)
        fault = self._files.fault

        def wait() -> None:
            if fault:
                raise SaveFault(fault)

        return wait

    def load_shards(self, folder: Path) -> None:
        # What is frozen is the base's, which is loaded anew, and not in there.
        is_whole = all(parameter.requires_grad for parameter in self._engine.module.parameters())
        self._engine.load_checkpoint(str(folder), tag=_TAG, load_lr_scheduler_states=False, load_module_strict=is_whole)


def hand_out(model: torch.nn.Module, config: TrainConfig, ranks: Ranks) -> None:
    """Give each rank the weights; at stage 3 they are cut as they come, so that it holds its share alone."""
    handout = Handout(model, ranks, getattr(torch, config.dtype))
    if config.zero_stage < 3:
        handout.give(model)
        return
    # Also where no rank lacks any: the engine would move all weights to the GPU, and cut them there.
    handout.is_needed = True
    for module in _inside_out(model):
        handout.give(module, recurse=False)
        if any(True for _ in module.parameters(recurse=False)):
            deepspeed.zero.Init(module=module, config_dict_or_path=engine_config(config))


def _inside_out(module: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """Give a module's parts before the module, each once."""
    modules = list(dict.fromkeys(module.modules()))
    yield from reversed(modules)


class _Files(TorchCheckpointEngine):  # type: ignore[misc]  # deepspeed is untyped
    """Writes DeepSpeed's files and remembers what failed: raised at once, it would leave the other ranks waiting."""

    fault = ""

    def save(self, state_dict: Any, path: str) -> None:
        try:
            super().save(state_dict, path)
        except (OSError, RuntimeError) as error:
            self.fault = self.fault or str(error)


@contextlib.contextmanager
def deepspeed_json_faults() -> Iterator[None]:
    """Say which keys of what is passed through DeepSpeed does not take, which it alone knows.

    Raises:
        ConfigError: there are such keys.
    """
    try:
        yield
    except ValidationError as error:
        table = "zero_optimization" if "Zero" in error.title else error.title
        found = [
            f"`{'.'.join((table, *map(str, each['loc'])))}` is `{json.dumps(each['input'], default=str)}`: "
            + ("an unknown key" if each["type"] == "extra_forbidden" else each["msg"])
            for each in error.errors()
        ]
        raise ConfigError(
            f"DeepSpeed refuses its JSON: {'; '.join(found)}", hint="https://www.deepspeed.ai/docs/config-json/"
        ) from error


def engine_config(config: TrainConfig) -> dict[str, Any]:
    """Give the JSON that DeepSpeed is started with; what the user passes through lies below ours."""
    out = {"device": "cpu", "pin_memory": config.device == "cuda"}
    offload: dict[str, Any] = {} if config.offload == "none" else {"offload_optimizer": out}
    if config.offload == "all":
        offload["offload_param"] = out
    ours = {
        # Rows are packed by us: DeepSpeed needs these for its own arithmetic only.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": config.accumulation_steps,
        "gradient_clipping": config.optim.max_grad_norm,
        "bf16": {"enabled": config.dtype == "bfloat16"},
        # 0: the scale of the loss is DeepSpeed's to find.
        "fp16": {"enabled": config.dtype == "float16", "loss_scale": 0},
        "zero_optimization": {
            "stage": config.zero_stage,
            "stage3_gather_16bit_weights_on_model_save": True,
            **offload,
        },
        "zero_allow_untested_optimizer": True,
        # torch's fused AdamW runs on CPU as well, and nothing must be compiled for it.
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1 << 40,
    }
    usual = {"zero_optimization": {"overlap_comm": config.device == "cuda"}}
    return merge([usual, config.deepspeed, ours])
