"""When to save: what `--save-every` means. No torch."""

import re
from dataclasses import dataclass

from ochatctl.errors import ConfigError

_ITEM = re.compile(r"(\d+(?:\.\d+)?)([a-z]*)")
_SECONDS = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600}


@dataclass(frozen=True, kw_only=True, slots=True)
class SaveEvery:
    """A model and a resume checkpoint each so many epochs; resume checkpoints also by steps or by the clock."""

    epochs: int = 1
    steps: int | None = None
    seconds: float | None = None


def read_save_every(text: str) -> SaveEvery:
    """Read `30m`, `500steps`, `2epochs`, or several with commas; a bare number is epochs, as OpenChat's `--save_every`.

    Raises:
        ConfigError: anything else.
    """
    found: dict[str, float] = {}
    for item in text.split(","):
        match = _ITEM.fullmatch(item.strip())
        number, unit = (float(match[1]), match[2]) if match else (0.0, "")
        key = "seconds" if unit in _SECONDS else {"": "epochs"}.get(unit, unit.removesuffix("s") + "s")
        whole = key == "seconds" or number.is_integer()
        if key not in ("epochs", "steps", "seconds") or number <= 0 or not whole or key in found:
            raise ConfigError(
                f"`--save-every {text}`: `{item}` is no time to save at",
                hint="`30m`, `500steps`, `2epochs`, or several: `--save-every 2epochs,30m`",
            )
        found[key] = number * _SECONDS.get(unit, 1)
    return SaveEvery(
        epochs=int(found.get("epochs", 1)),
        steps=int(found["steps"]) if "steps" in found else None,
        seconds=found.get("seconds"),
    )
