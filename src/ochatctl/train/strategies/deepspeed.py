"""DeepSpeed's ZeRO: stage 1 shards the optimizer's state, 2 the gradients as well, 3 the weights too."""

import math
from typing import Any

import deepspeed
import torch

from ochatctl.train.config import TrainConfig
from ochatctl.train.ranks import Ranks
from ochatctl.train.strategies.base import make_optimizer, set_lr


class DeepSpeedStrategy:
    """A DeepSpeed engine, configured from the run."""

    def __init__(self, model: torch.nn.Module, config: TrainConfig, ranks: Ranks) -> None:
        self.name = f"deepspeed ZeRO-{config.zero_stage}"
        self._zero_stage = config.zero_stage
        self._is_plain = config.zero_stage == 0 and config.dtype == "float32"
        self._is_first = ranks.is_first
        self._optimizer = make_optimizer(model, config.optim)
        self.model, *_ = deepspeed.initialize(
            model=model, optimizer=self._optimizer, config=engine_config(config), dist_init_required=False
        )
        self._engine: Any = self.model

    def backward(self, loss: torch.Tensor, *, is_last: bool) -> None:
        self._engine.set_gradient_accumulation_boundary(is_last)
        # Our loss is divided by the whole step's weight already.
        self._engine.backward(loss, scale_wrt_gas=False)

    def step(self, lr: float) -> float:
        set_lr(self._engine.optimizer, lr)
        # Stage 0 in float32 clips as well, and keeps no norm; its gradients are whole on every rank.
        before = self._plain_norm() if self._is_plain else 0.0
        self._engine.step()
        return before if self._is_plain else float(self._engine.get_global_grad_norm())

    def _plain_norm(self) -> float:
        gradients = [p.grad for p in self._engine.module.parameters() if p.grad is not None]
        return math.hypot(*(float(torch.linalg.vector_norm(gradient)) for gradient in gradients))

    def full_state(self) -> dict[str, torch.Tensor]:
        if self._zero_stage == 3:
            state = self._engine._zero3_consolidated_16bit_state_dict()
        else:
            state = self._engine.module.state_dict() if self._is_first else None
        return {name: value.detach().cpu() for name, value in (state or {}).items()}


def engine_config(config: TrainConfig) -> dict[str, Any]:
    """Give the JSON that DeepSpeed is started with."""
    return {
        # Rows are packed by us: DeepSpeed needs these for its own arithmetic only.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": config.accumulation_steps,
        "gradient_clipping": config.optim.max_grad_norm,
        "bf16": {"enabled": config.dtype == "bfloat16"},
        "zero_optimization": {
            "stage": config.zero_stage,
            "overlap_comm": config.device == "cuda",
            "stage3_gather_16bit_weights_on_model_save": True,
        },
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 1 << 40,
    }
