"""Dynamic loss scaling for float16, whose smallest gradients would else be rounded to nothing."""

import math

import torch

# As torch.amp.GradScaler and NVIDIA's Apex have them.
_INITIAL, _LEAST, _GROWTH_STEPS = 2.0**16, 1.0, 2000


class LossScale:
    """What the loss is multiplied by: halved where the gradient overflows, doubled after many steps without that."""

    def __init__(self) -> None:
        self.value = _INITIAL
        self._num_good = 0

    @property
    def can_be_lowered(self) -> bool:
        """Whether an overflow may still be the scale's fault."""
        return self.value > _LEAST

    def see(self, grad_norm: float) -> None:
        """Take note of a step's gradient, the same on all ranks."""
        if not math.isfinite(grad_norm):
            self.value, self._num_good = max(_LEAST, self.value / 2), 0
            return
        self._num_good += 1
        if self._num_good == _GROWTH_STEPS:
            self.value, self._num_good = self.value * 2, 0

    def state(self) -> torch.Tensor:
        """Give what `restore` brings back."""
        return torch.tensor([self.value, self._num_good], dtype=torch.float64)

    def restore(self, state: torch.Tensor) -> None:
        """Go on where `state` was taken."""
        self.value, self._num_good = float(state[0]), int(state[1])
