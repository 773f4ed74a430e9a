"""The key-value cache of all answers under way, and the model's steps over it.

Rows are padded on the left, as in `generate`: distances between tokens, and so rotary positions and sliding windows,
stay what they are, and any causal language model with plain attention works through its public `forward`. A prompt is
read into a cache of its own, in chunks, and joins the batch when it is done.

Shapes: B = rows, L = tokens of the longest row, V = vocabulary.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache

from ochatctl.errors import ConfigError
from ochatctl.extras import require

# peft's word for a row that none of its adapters touches.
_NO_ADAPTER = "__base__"


@dataclass(slots=True, eq=False)
class Row:
    """One answer's tokens: those in the cache, and those that the model has yet to see."""

    unread_ids: list[int]
    num_cached: int = 0
    # The name of the adapters that draw; empty: the model as it is.
    adapter: str = ""
    cache: DynamicCache | None = field(default_factory=DynamicCache)


class Batch:
    """The rows that are being continued, one token a step."""

    def __init__(self, model: Any, *, device: torch.device, adapters: Sequence[str] = ()) -> None:
        self._model = model
        self._device = device
        # float64 and some sorts are missing on Apple's GPUs, so their logits are drawn from on the CPU.
        self.logits_device = torch.device("cpu") if device.type == "mps" else device
        self._cache: DynamicCache | None = None
        self.rows: list[Row] = []
        self._extra: dict[str, Any] = {"use_cache": True}
        # As `with_adapters` named them, for each name of ours.
        self._adapters = {name: str(index) for index, name in enumerate(adapters)}
        plain = model.get_base_model() if adapters else model
        if "logits_to_keep" in inspect.signature(plain.forward).parameters:
            self._extra["logits_to_keep"] = 1

    def read(self, row: Row, max_tokens: int) -> Tensor | None:
        """Read the next chunk of a row's prompt; give the logits of shape (1, V) once all is read."""
        chunk, row.unread_ids = row.unread_ids[:max_tokens], row.unread_ids[max_tokens:]
        positions = torch.arange(row.num_cached, row.num_cached + len(chunk), device=self._device)[None]
        logits = self._forward([row], [chunk], positions, None, row.cache)
        row.num_cached += len(chunk)
        return None if row.unread_ids else logits

    def join(self, row: Row) -> None:
        """Take in a row whose prompt is read."""
        own, row.cache = row.cache, None
        assert own is not None
        if self._cache is None:
            self._cache = own
        else:
            length = max(self._length, row.num_cached)
            for layer, new in zip(self._cache.layers, own.layers, strict=True):
                layer.keys = torch.cat([_widen(layer.keys, length), _widen(new.keys, length)])
                layer.values = torch.cat([_widen(layer.values, length), _widen(new.values, length)])
        self.rows.append(row)

    def step(self) -> Tensor:
        """Feed every row its one unread token; give the logits of shape (B, V)."""
        length = self._length
        cached_B = torch.tensor([row.num_cached for row in self.rows], device=self._device)
        mask_BL = None
        if any(row.num_cached < length for row in self.rows):
            mask_BL = torch.arange(length + 1, device=self._device)[None] >= (length - cached_B)[:, None]
        logits = self._forward(
            self.rows, [row.unread_ids for row in self.rows], cached_B[:, None], mask_BL, self._cache
        )
        for row in self.rows:
            row.num_cached += 1
            row.unread_ids = []
        return logits

    def keep(self, rows: Sequence[Row]) -> None:
        """Let all other rows go, and the columns that only they filled."""
        if len(rows) == len(self.rows) or self._cache is None:
            return
        index = torch.tensor([self.rows.index(row) for row in rows], dtype=torch.long, device=self._device)
        start = self._length - max((row.num_cached for row in rows), default=0)
        self.rows = list(rows)
        if not rows:
            self._cache = None
            return
        for layer in self._cache.layers:
            layer.keys, layer.values = layer.keys[index, :, start:], layer.values[index, :, start:]

    @property
    def _length(self) -> int:
        return 0 if self._cache is None else int(self._cache.get_seq_length())

    def _forward(
        self,
        rows: Sequence[Row],
        token_ids: Sequence[Sequence[int]],
        positions: Tensor,
        mask_BL: Tensor | None,
        cache: DynamicCache | None,
    ) -> Tensor:
        extra = self._extra
        if self._adapters:
            extra = extra | {"adapter_names": [self._adapters.get(row.adapter, _NO_ADAPTER) for row in rows]}
        out = self._model(
            input_ids=torch.tensor(token_ids, device=self._device),
            position_ids=positions,
            attention_mask=mask_BL,
            past_key_values=cache,
            **extra,
        )
        logits: Tensor = out.logits[:, -1]
        return logits.to(self.logits_device)


def with_adapters(model: Any, folders: Sequence[Path]) -> Any:
    """Put LoRA adapters into a model, each chosen row by row; peft knows them as `0`, `1` and so on.

    Raises:
        ConfigError: they were made for other layers.
    """
    peft = require("peft", extra="train")
    for index, folder in enumerate(folders):
        name = str(index)
        try:
            if index == 0:
                model = peft.PeftModel.from_pretrained(model, folder, adapter_name=name)
            else:
                model.load_adapter(folder, adapter_name=name)
        except RuntimeError as error:
            raise ConfigError(f"the adapters in `{folder}` do not fit the model: {error}") from error
        # peft leaves out, and tells nobody, what it finds no layer for.
        num_saved = sum(".lora_A." in key for key in peft.utils.load_peft_weights(str(folder), device="cpu"))
        num_used = sum(name in getattr(module, "lora_A", ()) for module in model.modules())
        if num_saved != num_used:
            raise ConfigError(f"the adapters in `{folder}` are for {num_saved} layers, and {num_used} can take them")
    return model


def _widen(states: Tensor, length: int) -> Tensor:
    return pad(states, (0, 0, length - states.shape[2], 0))
