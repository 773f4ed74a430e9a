"""What this machine has (GPUs, RAM, disk, CPUs), and what serving or training a model needs of it, part by part.

Standard library only: GPUs are asked of `nvidia-smi`, weights are read from safetensors headers.
"""

import itertools
import json
import os
import platform
import shutil
import struct
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ochatctl.errors import DataError
from ochatctl.files import read_json

_GPU_FIELDS = ("index", "name", "memory.total", "memory.free", "driver_version", "compute_cap")
_SMI_TIMEOUT_SECONDS = 20
_MIB = 1 << 20
# A safetensors header is JSON after its own length; a larger one is no header.
_MAX_HEADER_BYTES = 100_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """One NVIDIA GPU as the driver sees it."""

    index: int
    name: str
    total_bytes: int
    free_bytes: int
    driver: str
    compute_capability: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Ram:
    """Main memory: the machine's, or what a container is allowed of it. None: this system does not tell."""

    total_bytes: int | None
    available_bytes: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """What there is. `num_cpus` are those that this process may use."""

    system: str
    release: str
    architecture: str
    is_wsl: bool
    python: str
    num_cpus: int
    ram: Ram
    disk_free_bytes: int
    gpus: tuple[Gpu, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """The weights of a model folder, by their safetensors headers; `dtypes` counts parameters."""

    num_params: int
    num_bytes: int
    dtypes: Mapping[str, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """The sizes in a model's `config.json` that memory depends on; 0 for one that it leaves out."""

    num_layers: int
    hidden_size: int
    num_heads: int = 0
    intermediate_size: int = 0
    is_tied: bool = False
    num_kv_heads: int
    head_size: int
    vocab_size: int
    context_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One part of a need, on one GPU, with the formula it comes from."""

    name: str
    num_bytes: int
    formula: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """What something needs on each GPU, by part."""

    what: str
    num_bytes: int
    parts: tuple[Part, ...]


def read_machine(folder: Path) -> Machine:
    """Give what this machine has; the disk is that of `folder`."""
    release = platform.release()
    return Machine(
        system=platform.system(),
        release=release,
        architecture=platform.machine(),
        is_wsl="microsoft" in release.lower(),
        python=platform.python_version(),
        num_cpus=num_cpus(),
        ram=ram(),
        disk_free_bytes=disk_free_bytes(folder),
        gpus=gpus(),
    )


def num_cpus() -> int:
    """Give how many CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpus_text(num_cpus: int) -> str:
    """Give a number of CPUs as one would say it."""
    return f"{num_cpus} CPUs" if num_cpus != 1 else "one CPU"


def size_text(num_bytes: int) -> str:
    """Give a size as it is read: in GB, what is small in MB, and what is next to nothing in kB."""
    if num_bytes < 1e5:
        return f"{num_bytes / 1e3:.2f} kB"
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.2f} MB"


def disk_free_bytes(folder: Path) -> int:
    """Give the free space of the disk that holds `folder`, or that will once it is made."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def gpus() -> tuple[Gpu, ...]:
    """Give the NVIDIA GPUs that this process may use; none where there is no driver, or it does not answer.

    `nvidia-smi` itself knows nothing of `CUDA_VISIBLE_DEVICES`; a part of a GPU (MIG) has no figures there.
    """
    command, visible = shutil.which("nvidia-smi"), _visible_devices()
    if command is None or visible == ():
        return ()
    query = [
        command,
        *([f"--id={','.join(visible)}"] if visible else []),
        f"--query-gpu={','.join(_GPU_FIELDS)}",
        "--format=csv,noheader,nounits",
    ]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=_SMI_TIMEOUT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return parse_gpus(done.stdout) if done.returncode == 0 else ()


def _visible_devices() -> tuple[str, ...] | None:
    """Give the numbers or UUIDs that CUDA is told to keep to; None: it may use all."""
    text = os.environ.get("CUDA_VISIBLE_DEVICES")
    if text is None:
        return None
    names = (name.strip() for name in text.split(","))
    # As CUDA reads it: what follows a name that is none does not count.
    return tuple(itertools.takewhile(lambda name: name and not name.startswith(("-", "MIG")), names))


def parse_gpus(text: str) -> tuple[Gpu, ...]:
    """Read what `nvidia-smi --query-gpu` prints; a line of another form is passed over."""
    out: list[Gpu] = []
    for line in text.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) != len(_GPU_FIELDS) or not fields[0].isdigit():
            continue
        index, name, total, free, driver, capability = fields
        out.append(
            Gpu(
                index=int(index),
                name=name,
                total_bytes=_mib(total),
                free_bytes=_mib(free),
                driver=driver,
                compute_capability=capability,
            )
        )
    return tuple(out)


def ram(root: Path = Path("/")) -> Ram:
    """Give main memory, from the system that `root` is the top of."""
    meminfo = _text(root / "proc/meminfo")
    if meminfo:
        return _within_container(parse_meminfo(meminfo), root)
    if platform.system() == "Windows":
        return _windows_ram()
    try:
        total_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return Ram(total_bytes=None, available_bytes=None)
    return Ram(total_bytes=total_bytes, available_bytes=None)


def parse_meminfo(text: str) -> Ram:
    """Read Linux's `/proc/meminfo`."""
    fields = {key: value.split() for key, _, value in (line.partition(":") for line in text.splitlines())}

    def field_bytes(key: str) -> int | None:
        value = fields.get(key)
        return int(value[0]) * 1024 if value and value[0].isdigit() else None

    return Ram(total_bytes=field_bytes("MemTotal"), available_bytes=field_bytes("MemAvailable"))


def read_weights(model_dir: Path) -> Weights:
    """Count the parameters of a folder's safetensors files, from their headers alone.

    Raises:
        DataError: no safetensors file, or a malformed one.
    """
    files = sorted(model_dir.glob("*.safetensors"))
    if not files:
        raise DataError(f"{model_dir}: no `*.safetensors` in it")
    dtypes: dict[str, int] = {}
    num_bytes = 0
    for file in files:
        for name, tensor in _header(file).items():
            if name == "__metadata__":
                continue
            try:
                dtype, begin, end = str(tensor["dtype"]), *(int(value) for value in tensor["data_offsets"])
                shape = [int(size) for size in tensor["shape"]]
            except (KeyError, TypeError, ValueError) as error:
                raise DataError(f"{file}: `{name}` has no dtype, shape or offsets") from error
            num_params = 1
            for size in shape:
                num_params *= size
            dtypes[dtype] = dtypes.get(dtype, 0) + num_params
            num_bytes += end - begin
    return Weights(num_params=sum(dtypes.values()), num_bytes=num_bytes, dtypes=dtypes)


def read_shape(model_dir: Path) -> Shape:
    """Read the sizes that memory depends on from a folder's `config.json`.

    Raises:
        DataError: missing, malformed or without one of them.
    """
    path = model_dir / "config.json"
    config = read_json(path)
    if isinstance(config, dict) and isinstance(config.get("text_config"), dict):
        config = config["text_config"]
    try:
        num_heads = int(config["num_attention_heads"])
        return Shape(
            num_layers=int(config["num_hidden_layers"]),
            hidden_size=int(config["hidden_size"]),
            num_heads=num_heads,
            intermediate_size=_inner_size(config),
            is_tied=bool(config.get("tie_word_embeddings", False)),
            num_kv_heads=int(config.get("num_key_value_heads") or num_heads),
            head_size=int(config.get("head_dim") or config["hidden_size"] // num_heads),
            vocab_size=int(config["vocab_size"]),
            context_tokens=int(config["max_position_embeddings"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise DataError(f"{path}: its sizes cannot be read: {error}") from error


def count_weights(shape: Shape) -> Weights:
    """Count the parameters of a Llama-like model of this shape, in bfloat16; of experts, those that a token uses."""
    hidden = shape.hidden_size
    heads = (2 * shape.num_heads + 2 * shape.num_kv_heads) * shape.head_size
    layer = hidden * (heads + 3 * shape.intermediate_size + 2)
    tables = shape.vocab_size * hidden * (1 if shape.is_tied else 2)
    num_params = shape.num_layers * layer + tables + hidden
    return Weights(num_params=num_params, num_bytes=2 * num_params, dtypes={"BF16": num_params})


def serving_need(weights: Weights, shape: Shape, *, num_tokens: int, num_gpus: int = 1, element_bytes: int = 2) -> Need:
    """Give what serving needs on each of `num_gpus` tensor-parallel GPUs.

    `num_tokens` are held in the KV cache at once, over all requests. An engine's own workspace comes on top.
    """
    kv_bytes = 2 * shape.num_layers * shape.num_kv_heads * shape.head_size * element_bytes
    num_shares = min(num_gpus, shape.num_kv_heads)  # a KV head is never cut: beyond that it is copied
    return add_up(
        "serve",
        (
            Part(
                name="weights",
                num_bytes=-(-weights.num_bytes // num_gpus),
                formula=f"as stored / {num_gpus} GPU",
            ),
            Part(
                name=f"KV cache of {num_tokens} tokens",
                num_bytes=-(-kv_bytes * num_tokens // num_shares),
                formula=f"2 x layers x KV heads x head size x {element_bytes} bytes"
                f" = {kv_bytes} bytes a token / {num_shares} GPU",
            ),
        ),
    )


def add_up(what: str, parts: tuple[Part, ...]) -> Need:
    """Give the need that these parts are."""
    return Need(what=what, num_bytes=sum(part.num_bytes for part in parts), parts=parts)


def _mib(text: str) -> int:
    return int(text) * _MIB if text.isdigit() else 0  # `[N/A]` on GPUs that share the system's memory


def _within_container(found: Ram, root: Path) -> Ram:
    """Cut a machine's memory to what this container's cgroup allows."""
    for limit_name, used_name in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        limit, used = (_text(root / "sys/fs/cgroup" / name).strip() for name in (limit_name, used_name))
        if not (limit.isdigit() and used.isdigit()) or found.total_bytes is None or int(limit) >= found.total_bytes:
            continue
        stat = _text((root / "sys/fs/cgroup" / limit_name).with_name("memory.stat"))
        # File cache counts as used, and is given up as soon as somebody needs the room.
        cache = next((int(line.split()[1]) for line in stat.splitlines() if line.startswith("inactive_file ")), 0)
        left = max(0, int(limit) - int(used) + cache)
        available = left if found.available_bytes is None else min(left, found.available_bytes)
        return Ram(total_bytes=int(limit), available_bytes=available)
    return found


def _windows_ram() -> Ram:
    import ctypes

    # MEMORYSTATUSEX: two 32-bit fields, then seven 64-bit ones, of which the first two are total and available.
    buffer = ctypes.create_string_buffer(64)
    struct.pack_into("=I", buffer, 0, 64)
    kernel: Any = getattr(ctypes, "windll").kernel32  # noqa: B009  (exists on Windows only; mypy runs on Linux)
    if not kernel.GlobalMemoryStatusEx(buffer):
        return Ram(total_bytes=None, available_bytes=None)
    total_bytes, available_bytes = struct.unpack_from("=QQ", buffer, 8)
    return Ram(total_bytes=total_bytes, available_bytes=available_bytes)


def _inner_size(config: Mapping[str, Any]) -> int:
    """Give the width of the feed-forward layers that a token passes, all its experts together."""
    experts = int(config.get("num_experts_per_tok") or 1)
    inner = config.get("moe_intermediate_size") if experts > 1 else None
    return experts * int(inner or config.get("intermediate_size") or 0)


def _header(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as handle:
            (num_bytes,) = struct.unpack("<Q", handle.read(8))
            if num_bytes > _MAX_HEADER_BYTES:
                raise DataError(f"{file}: not a safetensors file")
            value = json.loads(handle.read(num_bytes))
    except (struct.error, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{file}: not a safetensors file") from error
    if not isinstance(value, dict):
        raise DataError(f"{file}: not a safetensors file")
    return value


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
