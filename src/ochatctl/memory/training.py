"""What training needs of each GPU, part by part, and how long it takes: formulas, each said with its figure.

Standard library only. The parts that are weights, gradients and optimizer follow from how a strategy shards, and are
held by a test that counts tensors; activations and workspace are estimates.
"""

from dataclasses import dataclass, replace
from typing import Literal

from ochatctl.memory import Need, Part, Shape, Weights, add_up, count_weights

# Names as `nvidia-smi` gives them -> dense peak in TFLOP/s, in bfloat16 or, where a GPU has none, in float16;
# a longer name stands before a shorter one.
PEAK_TFLOPS = (
    ("GB200", 2500.0), ("B200", 2250.0), ("B100", 1750.0), ("GH200", 989.0), ("H200", 989.0), ("H100 PCIe", 756.0),
    ("H100 NVL", 835.0), ("H100", 989.0), ("H800", 989.0), ("H20", 148.0), ("A100", 312.0), ("A800", 312.0),
    ("A40", 150.0), ("A30", 165.0), ("A6000", 155.0), ("A10G", 70.0), ("A10", 125.0), ("L40S", 362.0), ("L40", 181.0),
    ("L4", 121.0), ("RTX 5090", 209.0), ("RTX 4090", 165.0), ("RTX 3090", 71.0),
    ("V100", 125.0), ("T4", 65.0),
)  # fmt: skip
# Model FLOPs utilisation that is assumed where nothing was measured.
ASSUMED_MFU = {"none": 0.45, "selective": 0.42, "full": 0.38}

_MAX_BUCKET = 500_000_000  # DeepSpeed's, in elements
_MAX_LIVE = 1_000_000_000  # ZeRO-3's parameters that stand gathered at a time
_CONTEXT_BYTES = 2_000_000_000
_HEAD_CHUNK_BYTES = 256 << 20
# Of main memory: a rank's Python with torch and CUDA; what a tensor of a large model takes.
_PROCESS_BYTES = 3_000_000_000
_LARGEST_TENSOR_BYTES = 1_000_000_000

Recompute = Literal["none", "selective", "full"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """How a model is spread over GPUs, or over CPU processes, and what is computed twice.

    `trained_params` are those beside frozen weights; None: all weights are trained. `is_4bit` is of the frozen ones,
    `is_8bit` of the optimizer's moments.
    """

    strategy: Literal["deepspeed", "fsdp"] = "deepspeed"
    zero_stage: int = 2
    offload: Literal["none", "optimizer", "all"] = "none"
    num_ranks: int = 1
    is_half: bool = True
    recompute: Recompute = "full"
    on_cpu: bool = False
    trained_params: int | None = None
    is_4bit: bool = False
    is_8bit: bool = False


def adapter_params(shape: Shape, rank: int, *, with_tables: bool = False) -> int:
    """Count the parameters of adapters on every linear layer of a Llama-like model, and of its tables where trained."""
    hidden, heads, kv = shape.hidden_size, shape.num_heads * shape.head_size, shape.num_kv_heads * shape.head_size
    attention = 2 * (hidden + heads) + 2 * (hidden + kv)
    tables = shape.vocab_size * hidden * (1 if shape.is_tied else 2) if with_tables else 0
    return shape.num_layers * rank * (attention + 3 * (hidden + shape.intermediate_size)) + tables


def training_need(weights: Weights, shape: Shape, *, num_tokens: int, spread: Spread) -> Need:
    """Give what training with AdamW needs on each rank, which takes `num_tokens` at once.

    Source: OpenChat's headline run, 13B on 8 GPUs, ZeRO-2 and all layers recomputed: 26 + 3.3 + 19.5 + 13.4 GB, beside
    the loss and workspace.
    """
    return add_up("train", (*state_parts(weights, spread), *_working_parts(weights, shape, num_tokens, spread)))


def host_need(weights: Weights, spread: Spread, *, ranks_per_node: int) -> Need:
    """Give the main memory of the first node, the fullest, beside GPUs.

    The model stands whole on global rank 0 alone, while it is read and, gathered in 16 bits, while it is saved.
    """
    share = ranks_per_node / spread.num_ranks
    where = "" if ranks_per_node == spread.num_ranks else f" x {ranks_per_node} of {spread.num_ranks} ranks"
    parts = []
    if moved := moved_bytes(weights, spread):
        what = "fp32 weights, two moments, gradients" + (", and 16-bit weights" if spread.offload == "all" else "")
        parts.append(Part(name="moved out of the GPUs", num_bytes=int(moved * share), formula=what + where))
    if spread.is_4bit:
        # Every rank reads the files, which are mapped: what is held at once is a tensor.
        largest = min(weights.num_bytes, _LARGEST_TENSOR_BYTES * ranks_per_node)
        parts.append(Part(name="reading the weights", num_bytes=largest, formula="a tensor at a time on each rank"))
    else:
        size = 4 if (spread.strategy == "fsdp" and spread.trained_params is None) or not spread.is_half else 2
        parts.append(
            Part(
                name="the whole model on rank 0",
                num_bytes=size * weights.num_params,
                formula=f"{size} bytes a parameter, while it is read, and gathered to be saved",
            )
        )
    process = _PROCESS_BYTES * ranks_per_node
    parts.append(Part(name="processes", num_bytes=process, formula=f"about {_PROCESS_BYTES / 1e9:g} GB a rank"))
    return add_up("host", tuple(parts))


def moved_bytes(weights: Weights, spread: Spread) -> int:
    """Give the main memory that all ranks together need for what is moved out of the GPUs."""
    params = weights.num_params if spread.trained_params is None else spread.trained_params
    moved = 16 * params if spread.offload != "none" else 0  # fp32 weights, two moments and the gradient
    return moved + (2 * weights.num_params if spread.offload == "all" else 0)


def state_parts(weights: Weights, spread: Spread) -> tuple[Part, ...]:
    """Give weights, gradients and optimizer state of a rank, as the strategy shards them."""
    if spread.trained_params is not None:
        trained = Weights(num_params=spread.trained_params, num_bytes=0, dtypes={})
        learns = state_parts(trained, replace(spread, trained_params=None))
        named = (replace(part, name="adapters") if part.name == "weights" else part for part in learns)
        return (_frozen_part(weights, spread), *named)
    params, num = weights.num_params, spread.num_ranks
    moments, moments_are = (2, "8 bits") if spread.is_8bit else (8, "fp32")
    if spread.strategy == "fsdp":
        shares = {"weights": (4, num), "gradients": (4, num), "optimizer": (moments, num)}
        whats = {"weights": "fp32", "gradients": "fp32", "optimizer": f"two moments in {moments_are}"}
    else:
        size = 2 if spread.is_half else 4
        stage = spread.zero_stage
        # In fp32 and without sharding the optimizer works on the weights themselves; else it has its own copy.
        own = moments if stage == 0 and not spread.is_half else 4 + moments
        shares = {
            "weights": (size if spread.offload != "all" else 0, num if stage == 3 else 1),
            "gradients": (size if spread.offload == "none" else 0, num if stage >= 2 else 1),
            "optimizer": (own if spread.offload == "none" else 0, num if stage >= 1 else 1),
        }
        kind = "16 bits" if spread.is_half else "fp32"
        whats = {
            "weights": kind,
            "gradients": kind,
            "optimizer": ("fp32 weights and " if own > moments else "") + f"two moments in {moments_are}",
        }
    return tuple(
        Part(
            name=name,
            num_bytes=-(-size * params // share),
            formula=f"{size} bytes a parameter ({whats[name]})" + (f" / {share} ranks" if share > 1 else "")
            if size
            else "in main memory",
        )
        for name, (size, share) in shares.items()
    )


def _frozen_part(weights: Weights, spread: Spread) -> Part:
    """Give the weights beside adapters: sharded as trained ones are, but for those in 4 bits, which are whole."""
    if spread.is_4bit:
        # With their scales, and a share for tables and norms, which stay as they are.
        return Part(
            name="frozen weights",
            num_bytes=int(0.7 * weights.num_params),
            formula="about 0.7 bytes a parameter (4 bits)",
        )
    share = spread.num_ranks if spread.strategy == "fsdp" or spread.zero_stage == 3 else 1
    size, kind = (2, "16 bits") if spread.is_half else (4, "fp32")
    if spread.offload == "all":
        return Part(name="frozen weights", num_bytes=0, formula="in main memory")
    return Part(
        name="frozen weights",
        num_bytes=-(-size * weights.num_params // share),
        formula=f"{size} bytes a parameter ({kind})" + (f" / {share} ranks" if share > 1 else ""),
    )


def _working_parts(weights: Weights, shape: Shape, num_tokens: int, spread: Spread) -> tuple[Part, ...]:
    size = 2 if spread.is_half else 4
    layer_bytes = num_tokens * token_layer_bytes(shape, size)
    kept_bytes = num_tokens * shape.hidden_size * size
    kept = {
        "full": (kept_bytes * shape.num_layers + layer_bytes, "the input of each layer, and one layer whole"),
        "selective": (layer_bytes * shape.num_layers // 2, "matrix products and attention of each layer"),
        "none": (layer_bytes * shape.num_layers, "every layer whole"),
    }
    activations, what = kept[spread.recompute]
    head = 4 * shape.vocab_size * shape.hidden_size + kept_bytes + (2 * _HEAD_CHUNK_BYTES if not spread.on_cpu else 0)
    gathered, why = _gathered(weights, shape, size, spread)
    context = 0 if spread.on_cpu else _CONTEXT_BYTES
    return (
        Part(name=f"activations of {num_tokens} tokens", num_bytes=activations, formula=what),
        Part(name="loss head", num_bytes=head, formula="the output layer's gradient in fp32, and a chunk of logits"),
        Part(
            name="workspace",
            num_bytes=gathered + context,
            formula=why + ("" if spread.on_cpu else "; 2 GB for CUDA, NCCL and fragmentation as a rule of thumb"),
        ),
    )


def token_layer_bytes(shape: Shape, size: int) -> int:
    """Give the activations that one token leaves in one layer for the backward pass.

    Of a Llama-like layer: two norms (their input in fp32, the normalised and the scaled value), queries, keys, values,
    attention's output, and of the MLP the gate, its activation, the other branch and their product.
    """
    hidden, kv = shape.hidden_size, shape.num_kv_heads * shape.head_size
    norms = 2 * hidden * (4 + 2 * size)
    attention = size * (2 * hidden + 2 * kv)
    return norms + attention + 4 * size * shape.intermediate_size


def _gathered(weights: Weights, shape: Shape, size: int, spread: Spread) -> tuple[int, str]:
    """Give what stands gathered or bucketed beside a rank's own share."""
    params = weights.num_params
    tables = shape.vocab_size * shape.hidden_size * (1 if shape.is_tied else 2)
    layers = 2 * max(0, params - tables) // max(1, shape.num_layers)
    if spread.strategy == "fsdp":
        if spread.num_ranks == 1 and not spread.is_half:
            return 0, "nothing to gather"
        return size * min(params, tables + layers) + 4 * layers // 2, "embeddings and two layers gathered"
    if spread.zero_stage == 3:
        live = min(params, _MAX_LIVE)
        return size * (live + 2 * min(params, _MAX_BUCKET)), "ZeRO-3's gathered weights and two buckets"
    if spread.num_ranks == 1 and spread.offload == "none":
        return 0, "nothing to reduce"
    return size * 3 * min(params, _MAX_BUCKET), "two buckets to reduce gradients, one to gather weights"


def step_flops(
    weights: Weights, shape: Shape, *, num_tokens: float, num_squares: float, trained_params: int | None = None
) -> float:
    """Give the FLOPs of training on so many tokens, without what is computed twice.

    2 a parameter that a token uses forward, 2 for the gradient of its input, and 2 for its own where it is trained: 6,
    or 4 beside `trained_params` that learn while the others are frozen (what these few take forward is left out). For
    causal attention 6 x layers x attention width a pair of tokens that meet, whatever is trained; `num_squares` is the
    sum of the rows' lengths squared.
    """
    num_used = min(weights.num_params, count_weights(shape).num_params)
    num_trained = num_used if trained_params is None else trained_params
    attention = 6.0 * shape.num_layers * _attention_width(shape) * num_squares
    return (4.0 * num_used + 2.0 * num_trained) * num_tokens + attention


def cost_per_squared_token(shape: Shape) -> float:
    """Give what a squared token of a row costs, where a token costs 1: attention's share of the work."""
    return shape.num_layers * _attention_width(shape) / count_weights(shape).num_params


def _attention_width(shape: Shape) -> int:
    return shape.num_heads * shape.head_size


def peak_tflops(name: str) -> float | None:
    """Give a GPU's dense 16-bit peak, by its name; None for one that is not known."""
    words = set(name.replace("-", " ").lower().split())
    return next((peak for known, peak in PEAK_TFLOPS if words.issuperset(known.lower().split())), None)
