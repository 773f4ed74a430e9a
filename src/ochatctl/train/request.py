"""What a user may ask of a training run."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainRequest:
    """What a user may ask for; None leaves it to us."""

    model: str | None = None
    data: str | None = None
    out: Path | None = None
    family: str | None = None
    gpus: int | None = None
    cpu: bool = False
    strategy: Literal["auto", "deepspeed", "fsdp"] = "auto"
    zero: int | None = None
    epochs: int = 5
    lr: float | None = None
    batch_size_per_gpu: int | None = None
    batch_tokens: int | None = None
    accumulation: int = 1
    save_every: int = 1
    gradient_checkpointing: bool = False
    seed: int = 0
    trust_remote_code: bool = False
    yes: bool = False

    def command(self, **changes: Any) -> str:
        """Give the command line that asks for this, with changes."""
        words = ["ochatctl train"]
        for field in fields(self):
            value = changes.get(field.name, getattr(self, field.name))
            flag = "--" + field.name.replace("_", "-")
            if value is True:
                words.append(flag)
            elif value is not False and value != field.default:
                words.append(f"{flag} {value}")
        return " ".join(words)
