"""What a server will need, before anything is loaded.

in: ServeConfig and the model as it was found, out: ServePlan
"""

from dataclasses import dataclass, replace

from ochatctl.engine.load import FoundModel
from ochatctl.memory import Need, Part, add_up, cpus_text, gpus, num_cpus, ram, read_shape, read_weights, serving_need
from ochatctl.serve.config import ServeConfig

# vLLM's own default of `gpu_memory_utilization`.
_VLLM_RATIO = 0.9
_FLOAT32_BYTES = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class ServePlan:
    """The engine, its model, and its memory: on each GPU, or without one in RAM. None: not known."""

    engine: str
    # Why this one, as one would say it.
    reason: str
    device: str
    is_gpu: bool
    model: str
    family: str
    context_tokens: int
    need: Need | None
    available_bytes: int | None

    @property
    def fits(self) -> bool | None:
        """Whether what is needed is there."""
        if self.need is None or self.available_bytes is None:
            return None
        return self.need.num_bytes <= self.available_bytes


def make_plan(config: ServeConfig, model: FoundModel) -> ServePlan:
    """Reckon what serving a model needs: its weights, and a KV cache for one full context.

    Raises:
        DataError: the folder holds no weights, or its config cannot be read.
    """
    load, engine = config.load, model.choice.kind
    here = gpus()
    is_gpu = bool(here) and engine != "echo"
    num_gpus = load.tensor_parallel
    device = f"{num_gpus} GPU{'s' if num_gpus > 1 else ''}" if is_gpu else cpus_text(num_cpus())
    need: Need | None = None
    context_tokens = load.max_model_len or model.family.context_tokens
    available = ram().available_bytes
    if model.folder is not None:
        weights, shape = read_weights(model.folder), read_shape(model.folder)
        context_tokens = load.max_model_len or shape.context_tokens
        element_bytes = 2
        if load.dtype == "float32" or (load.dtype == "auto" and engine == "hf" and not is_gpu):
            weights = replace(weights, num_bytes=_FLOAT32_BYTES * weights.num_params)
            element_bytes = _FLOAT32_BYTES
        need = serving_need(weights, shape, num_tokens=context_tokens, num_gpus=num_gpus, element_bytes=element_bytes)
        if not is_gpu:
            parts = tuple(replace(part, formula=part.formula.removesuffix(" / 1 GPU")) for part in need.parts)
            if element_bytes == _FLOAT32_BYTES:
                parts = (replace(parts[0], formula=f"parameters x {_FLOAT32_BYTES} bytes"), *parts[1:])
            need = replace(need, parts=parts)
        if model.adapters:
            num_bytes = sum(
                file.stat().st_size for each in model.adapters for file in each.folder.glob("adapter_model.*")
            )
            adapters = Part(name="adapters", num_bytes=num_bytes, formula=f"{len(model.adapters)}, as stored")
            need = add_up(need.what, (*need.parts, adapters))
    if is_gpu:
        used = here[:num_gpus]
        ratio = load.gpu_memory_utilization or _VLLM_RATIO
        available = min(gpu.free_bytes if engine == "hf" else int(gpu.total_bytes * ratio) for gpu in used)
    return ServePlan(
        engine=engine,
        reason=model.choice.reason,
        device=device,
        is_gpu=is_gpu,
        model=load.model or "echo",
        family=model.family.name,
        context_tokens=context_tokens,
        need=need,
        available_bytes=available,
    )
