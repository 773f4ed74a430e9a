"""AlpacaEval's length-controlled win rate: only alpaca_eval's own fit with its official weights may have that name.

in: all annotations in AlpacaEval's order, out: percent

The weights are fetched by the `alpaca-eval` package from the hub; without them nothing is printed: estimates of ours
for 150 published models missed by up to 17 points.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ochatctl.bench.preferences import Annotation
from ochatctl.errors import DataError, RemoteError
from ochatctl.extras import require

NUM_INSTRUCTIONS = 805


@dataclass(frozen=True, kw_only=True, slots=True)
class LengthControlled:
    """Units: percent."""

    length_controlled_winrate: float
    lc_standard_error: float


def length_controlled(annotations: Sequence[Annotation]) -> LengthControlled:
    """Give what `alpaca_eval` gives.

    Raises:
        DataError: not one model over all 805 instructions: the weights go by the row.
        MissingExtra: `alpaca-eval` is not installed.
        RemoteError: the hub's weights cannot be had.
    """
    models = {(row.generator_1, row.generator_2) for row in annotations}
    if len(annotations) != NUM_INSTRUCTIONS or len(models) != 1:
        raise DataError(
            f"{len(annotations)} annotations of {len(models)} models: the length-controlled win rate is for one model "
            f"over all {NUM_INSTRUCTIONS} instructions in their order"
        )
    metrics = require("alpaca_eval.metrics", extra="alpaca")
    rows = [asdict(row) for row in annotations]
    try:
        found: dict[str, Any] = metrics.get_length_controlled_winrate(
            rows, save_weights_dir=None, is_add_glm_preference_inplace=False
        )
    except OSError as error:  # the hub's errors, offline ones too, are of this family
        raise RemoteError(
            f"alpaca_eval cannot get its weights from the hub: {str(error).splitlines()[0]}",
            hint="hf download tatsu-lab/alpaca_eval df_gamed.csv --repo-type dataset",
        ) from error
    return LengthControlled(
        length_controlled_winrate=float(found["length_controlled_winrate"]),
        lc_standard_error=float(found["lc_standard_error"]),
    )
