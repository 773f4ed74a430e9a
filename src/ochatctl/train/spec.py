"""What `lora` and `rope_scaling` say in one string: `r=16,alpha=32`, `linear:2`, `dynamic`, `yarn:4`."""

from dataclasses import dataclass
from typing import Any, Literal, cast

from ochatctl.config import build
from ochatctl.errors import ConfigError
from ochatctl.presets import read_set

_KINDS = ("linear", "dynamic", "yarn")


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraSpec:
    """Low-rank adapters: their rank, and alpha, by which their output is scaled over the rank.

    `targets` are the modules that get one, as `q_proj+v_proj`; `all-linear` is every linear layer but the output's.
    """

    r: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: str = "all-linear"

    def __post_init__(self) -> None:
        if self.r < 1 or self.alpha <= 0 or not 0 <= self.dropout < 1 or not self.targets:
            raise ConfigError(f"`lora`: no adapter has r {self.r}, alpha {self.alpha:g}, dropout {self.dropout:g}")


@dataclass(frozen=True, kw_only=True, slots=True)
class RopeScaling:
    """How positions beyond the base's context are taken; `factor` is the new context over the old one.

    None where `dynamic` leaves it to the length of a row.
    """

    kind: Literal["linear", "dynamic", "yarn"]
    factor: float | None = None

    @property
    def text(self) -> str:
        """What `read_rope_scaling` reads."""
        return self.kind if self.factor is None else f"{self.kind}:{self.factor:g}"


def read_lora(text: str) -> LoraSpec:
    """Read `r=16,alpha=32`, to which `dropout=0.05` and `targets=q_proj+v_proj` may be added.

    Raises:
        ConfigError: an unknown key, or a value that is none.
    """
    table: dict[str, Any] = {}
    for item in text.split(","):
        if "=" not in item:
            raise ConfigError(f"`lora`: `{item}` is not of the form `key=value`", hint="--set lora=r=16,alpha=32")
        table |= read_set(item.strip())[1]
    return build(LoraSpec, table, where="`lora`")


def read_rope_scaling(text: str) -> RopeScaling:
    """Read `linear:2`, `dynamic` or `yarn:4`.

    Raises:
        ConfigError: another kind, or a factor that does not extend the context.
    """
    kind, colon, number = text.partition(":")
    try:
        factor = float(number) if colon else None
    except ValueError:
        factor = 0.0
    if kind not in _KINDS or (factor is None and kind != "dynamic") or (factor is not None and not factor > 1):
        raise ConfigError(f"`rope_scaling` is `{text}`", hint="`linear:2`, `dynamic` or `yarn:4`, the factor above 1")
    return RopeScaling(kind=cast(Literal["linear", "dynamic", "yarn"], kind), factor=factor)
