"""What the sums of a tally mean: losses and accuracies, all together and by class. No torch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

# As in `linear_loss`, which makes them.
_WEIGHTED_CE, _CORRECT, _TOKENS, _WEIGHT = 0, 2, 3, 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """Means over supervised tokens; losses weigh a token by its loss weight, accuracies do not."""

    loss: float | None
    accuracy: float
    tokens: int
    class_losses: dict[str, float]
    class_accuracies: dict[str, float]


def figures_of(tally_C5: Sequence[Sequence[float]], names: Sequence[str]) -> Figures:
    """Give the figures of a tally; a class without a token is left out, and so are classes where there is one only."""
    weighted_ce, correct, tokens, weight = (
        sum(line[column] for line in tally_C5) for column in (_WEIGHTED_CE, _CORRECT, _TOKENS, _WEIGHT)
    )
    seen = [(name, line) for name, line in zip(names, tally_C5, strict=True) if line[_TOKENS] and len(names) > 1]
    losses = {name: line[_WEIGHTED_CE] / line[_WEIGHT] for name, line in seen if line[_WEIGHT]}
    loss = weighted_ce / weight if weight else math.nan
    return Figures(
        loss=loss if math.isfinite(loss) else None,
        accuracy=correct / max(tokens, 1),
        tokens=round(tokens),
        class_losses={name: value for name, value in losses.items() if math.isfinite(value)},
        class_accuracies={name: line[_CORRECT] / line[_TOKENS] for name, line in seen},
    )
