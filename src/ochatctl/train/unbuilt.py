"""Keys that presets may hold and that no code stands behind yet: refused, never ignored."""

from typing import Any

from ochatctl.errors import ConfigError
from ochatctl.train.request import TrainRequest, flat

# Key -> the values that do stand.
_BUILT: dict[str, tuple[Any, ...]] = {
    "compile": (False,),
    "quantize": ("none",),
    "optim.optimizer": ("adamw",),
}


def refuse_unbuilt(request: TrainRequest) -> None:
    """Refuse what cannot be done yet.

    Raises:
        ConfigError: names the key and what it takes instead.
    """
    for key, value in flat(request).items():
        if key in _BUILT and value not in _BUILT[key]:
            stands = " or ".join(f"`{item}`" for item in _BUILT[key] if item is not None)
            instead = f"`{key}` takes {stands}" if stands else f"leave `{key}` out"
            raise ConfigError(f"`{key} = {value}` is not implemented yet; {instead}")
