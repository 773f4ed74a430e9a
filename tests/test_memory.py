"""What this machine has, and what a model needs of it."""

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest

from ochatctl import memory
from ochatctl.errors import DataError
from ochatctl.memory import Shape, Weights, count_weights, read_shape
from ochatctl.memory.training import (
    Spread,
    cost_per_squared_token,
    host_need,
    moved_bytes,
    peak_tflops,
    state_parts,
    step_flops,
    training_need,
)

MEMINFO = "MemTotal:       16000000 kB\nMemFree:         1000000 kB\nMemAvailable:   12000000 kB\n"
LLAMA_13B = {
    "num_hidden_layers": 40,
    "hidden_size": 5120,
    "intermediate_size": 13824,
    "num_attention_heads": 40,
    "num_key_value_heads": 40,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
}


def model_dir(folder: Path, tensors: dict[str, tuple[str, list[int]]], config: dict[str, Any]) -> Path:
    """Write a folder with real safetensors headers over empty data: only the headers are read."""
    sizes, header, offset = {"BF16": 2, "F32": 4}, {}, 0
    for name, (dtype, shape) in tensors.items():
        num_bytes = sizes[dtype]
        for size in shape:
            num_bytes *= size
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + num_bytes]}
        offset += num_bytes
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def linux(root: Path, **files: str) -> Path:
    for name, text in {"proc/meminfo": MEMINFO, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_gpus_are_read_from_what_nvidia_smi_prints() -> None:
    text = "0, NVIDIA H200, 143771, 143154, 570.124.06, 9.0\n1, NVIDIA H200, 143771, 2, 570.124.06, 9.0\n"
    first, second = memory.parse_gpus(text)
    assert (first.name, first.total_bytes, first.driver, first.compute_capability) == (
        *("NVIDIA H200", 143771 * 2**20, "570.124.06"),
        "9.0",
    )
    assert (second.index, second.free_bytes) == (1, 2 * 2**20)


@pytest.mark.parametrize(
    ("visible", "found"),
    [
        (None, [0, 1]),
        ("1", [1]),
        ("1,0", [0, 1]),
        ("0,-1,1", [0]),
        ("GPU-b1", [1]),
        ("", []),
        ("-1", []),
        ("MIG-c", []),
    ],
)
def test_gpus_are_those_that_cuda_may_use(
    visible: str | None, found: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nvidia-smi").write_text(
        """#!/bin/sh
case "$*" in *--id=*) ids=",${*##*--id=},"; ids="${ids%% *},";; *) ids=",0,1,";; esac
case "$ids" in *,0,*|*,GPU-a0,*) echo "0, NVIDIA T4, 15360, 15000, 570.124.06, 7.5";; esac
case "$ids" in *,1,*|*,GPU-b1,*) echo "1, NVIDIA A100-SXM4-80GB, 81920, 81000, 570.124.06, 8.0";; esac
"""
    )
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [gpu.index for gpu in memory.gpus()] == found


@pytest.mark.parametrize("text", ["", "No devices were found\n", "NVIDIA-SMI has failed\n", "a, b, c, d, e, f\n"])
def test_a_driver_that_finds_nothing_gives_no_gpu(text: str) -> None:
    assert memory.parse_gpus(text) == ()


def test_a_gpu_that_shares_the_system_s_memory_is_still_a_gpu() -> None:
    (gpu,) = memory.parse_gpus("0, NVIDIA GB10, [N/A], [N/A], 580.95, 12.1\n")
    assert (gpu.name, gpu.total_bytes) == ("NVIDIA GB10", 0)


def test_ram_is_what_linux_says_is_available(tmp_path: Path) -> None:
    assert memory.ram(linux(tmp_path)) == memory.Ram(total_bytes=16_384_000_000, available_bytes=12_288_000_000)


def test_a_container_has_what_its_cgroup_allows(tmp_path: Path) -> None:
    files = {
        "sys/fs/cgroup/memory.max": "4000000000\n",
        "sys/fs/cgroup/memory.current": "3000000000\n",
        "sys/fs/cgroup/memory.stat": "anon 1\ninactive_file 500000000\n",
    }
    assert memory.ram(linux(tmp_path, **files)) == memory.Ram(total_bytes=4_000_000_000, available_bytes=1_500_000_000)


def test_an_older_container_too(tmp_path: Path) -> None:
    files = {
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "4000000000\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "1000000000\n",
    }
    assert memory.ram(linux(tmp_path, **files)) == memory.Ram(total_bytes=4_000_000_000, available_bytes=3_000_000_000)


@pytest.mark.parametrize("limit", ["max\n", "9223372036854771712\n"])
def test_a_container_without_a_limit_has_the_machine_s_memory(tmp_path: Path, limit: str) -> None:
    files = {"sys/fs/cgroup/memory.max": limit, "sys/fs/cgroup/memory.current": "1000\n"}
    assert memory.ram(linux(tmp_path, **files)).total_bytes == 16_384_000_000


def test_this_machine_has_something(tmp_path: Path) -> None:
    machine = memory.read_machine(tmp_path / "not" / "made" / "yet")
    assert 1 <= machine.num_cpus <= (os.cpu_count() or 1)
    assert machine.disk_free_bytes > 0
    assert machine.ram.total_bytes is None or machine.ram.total_bytes > 10**8


def test_weights_are_counted_from_headers(tmp_path: Path) -> None:
    folder = model_dir(tmp_path / "m", {"a": ("BF16", [10, 4]), "b": ("F32", [3]), "scalar": ("F32", [])}, LLAMA_13B)
    weights = memory.read_weights(folder)
    assert (weights.num_params, weights.num_bytes, weights.dtypes) == (44, 96, {"BF16": 40, "F32": 4})


@pytest.mark.parametrize("content", [b"", b"\x05", struct.pack("<Q", 1 << 50), struct.pack("<Q", 2) + b"[]", b"\0" * 8])
def test_what_is_no_safetensors_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(DataError, match=r"model\.safetensors: not a safetensors file"):
        memory.read_weights(tmp_path)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no `\*\.safetensors`"):
        memory.read_weights(tmp_path)


def test_a_shape_falls_back_to_what_older_configs_leave_out(tmp_path: Path) -> None:
    config = {key: value for key, value in LLAMA_13B.items() if key != "num_key_value_heads"}
    shape = memory.read_shape(model_dir(tmp_path / "m", {}, config))
    assert (shape.num_kv_heads, shape.head_size) == (40, 128)
    nested = memory.read_shape(model_dir(tmp_path / "n", {}, {"text_config": config}))
    assert nested == shape
    with pytest.raises(DataError, match=r"config\.json: its sizes cannot be read"):
        memory.read_shape(model_dir(tmp_path / "o", {}, {"hidden_size": 1}))


def test_openchat_s_headline_run_needs_what_was_published(tmp_path: Path) -> None:
    """13B on 8 GPUs with 32,768 tokens each: 26 + 3.3 + 19.5 + 13.4 GB."""
    shape = memory.read_shape(model_dir(tmp_path / "m", {}, LLAMA_13B))
    weights = memory.Weights(num_params=13_000_000_000, num_bytes=26_000_000_000, dtypes={"BF16": 13_000_000_000})
    need = training_need(weights, shape, num_tokens=32_768, spread=Spread(num_ranks=8))
    assert [round(part.num_bytes / 1e9, 1) for part in need.parts[:3]] == [26.0, 3.2, 19.5]
    checkpoints = 2 * 32_768 * 5120 * 40
    assert round(checkpoints / 1e9, 1) == 13.4
    assert checkpoints < need.parts[3].num_bytes < 2 * checkpoints
    assert 70e9 < need.num_bytes < 80e9, "which the published run on A100s of 80 GB did fit"
    assert need.num_bytes == sum(part.num_bytes for part in need.parts)


def test_serving_needs_819200_bytes_of_cache_a_token_at_13b(tmp_path: Path) -> None:
    shape = memory.read_shape(model_dir(tmp_path / "m", {}, LLAMA_13B))
    weights = memory.Weights(num_params=13_000_000_000, num_bytes=26_000_000_000, dtypes={"BF16": 13_000_000_000})
    one = memory.serving_need(weights, shape, num_tokens=4096)
    assert [part.num_bytes for part in one.parts] == [26_000_000_000, 819_200 * 4096]
    two = memory.serving_need(weights, shape, num_tokens=4096, num_gpus=2)
    assert two.num_bytes * 2 == one.num_bytes


def test_a_kv_head_is_never_cut(tmp_path: Path) -> None:
    shape = memory.read_shape(model_dir(tmp_path / "m", {}, LLAMA_13B | {"num_key_value_heads": 2}))
    weights = memory.Weights(num_params=1, num_bytes=8, dtypes={"F32": 2})
    caches = [
        memory.serving_need(weights, shape, num_tokens=10, num_gpus=count).parts[1].num_bytes for count in (1, 2, 8)
    ]
    assert caches == [caches[0], caches[0] // 2, caches[0] // 2]


def test_parameters_are_counted_from_the_config_where_no_weights_are_at_hand(tmp_path: Path) -> None:
    shape = memory.read_shape(model_dir(tmp_path / "m", {}, LLAMA_13B))
    assert memory.count_weights(shape).num_params == 13_015_864_320, "what Llama 2 13B has"


def test_the_flops_of_openchats_run_are_those_that_its_15_hours_were_spent_on(tmp_path: Path) -> None:
    shape = memory.read_shape(model_dir(tmp_path / "m", {}, LLAMA_13B))
    weights = memory.count_weights(shape)
    flops = step_flops(weights, shape, num_tokens=690e6, num_squares=690e6 * 2700)
    assert flops == pytest.approx(5.6e19, rel=0.02)
    mfu = flops / (15 * 3600 * 8 * 1e12 * (peak_tflops("NVIDIA A100-SXM4-80GB") or 0))
    assert mfu == pytest.approx(0.42, abs=0.02)


@pytest.mark.parametrize(
    ("name", "peak"),
    [("NVIDIA H100 80GB HBM3", 989), ("NVIDIA H100 PCIe", 756), ("NVIDIA H200", 989), ("NVIDIA L4", 121),
     ("NVIDIA L40S", 362), ("NVIDIA GeForce RTX 4090", 165), ("Tesla T4", 65),
     ("NVIDIA GeForce GTX 1080 Ti", None)],
)  # fmt: skip
def test_a_gpus_peak_is_known_by_its_name(name: str, peak: float | None) -> None:
    assert peak_tflops(name) == peak


def test_each_stage_shards_one_thing_more_and_offload_takes_it_out(tmp_path: Path) -> None:
    weights = memory.Weights(num_params=1000, num_bytes=2000, dtypes={"BF16": 1000})

    def state(**changes: Any) -> list[int]:
        return [part.num_bytes for part in state_parts(weights, Spread(num_ranks=4, **changes))]

    assert state(zero_stage=0) == [2000, 2000, 12000]
    assert state(zero_stage=1) == [2000, 2000, 3000]
    assert state(zero_stage=2) == [2000, 500, 3000]
    assert state(zero_stage=3) == [500, 500, 3000]
    assert state(zero_stage=2, offload="optimizer") == [2000, 0, 0]
    assert state(zero_stage=3, offload="all") == [0, 0, 0]
    assert state(strategy="fsdp") == [1000, 1000, 2000]
    assert moved_bytes(weights, Spread(offload="all", num_ranks=4)) == 18000
    host = host_need(weights, Spread(offload="all", num_ranks=4), ranks_per_node=2)
    assert [part.num_bytes for part in host.parts][:2] == [9000, 2000], "its ranks' share, and rank 0's whole model"
    read = host_need(weights, Spread(strategy="fsdp", num_ranks=8), ranks_per_node=8).parts[0]
    assert read.num_bytes == 4000, "once, not on each rank"


SMOLLM2_135M = {
    "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
    "intermediate_size": 1536, "vocab_size": 49152, "tie_word_embeddings": True, "max_position_embeddings": 8192,
}  # fmt: skip


def shape_of(folder: Path, config: dict[str, Any]) -> Shape:
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return read_shape(folder)


def test_parameters_are_those_that_the_models_have(tmp_path: Path) -> None:
    assert count_weights(shape_of(tmp_path, LLAMA_13B)).num_params == 13_015_864_320
    assert count_weights(shape_of(tmp_path, {"text_config": SMOLLM2_135M})).num_params == 134_515_008


def test_a_token_of_a_mixture_uses_some_of_the_experts(tmp_path: Path) -> None:
    dense = shape_of(tmp_path, LLAMA_13B)
    mixture = shape_of(tmp_path, LLAMA_13B | {"num_experts_per_tok": 2, "num_local_experts": 8})
    used = count_weights(mixture).num_params
    assert used - count_weights(dense).num_params == 40 * 3 * 5120 * 13824
    whole = Weights(num_params=4 * used, num_bytes=8 * used, dtypes={"BF16": 4 * used})
    assert step_flops(whole, mixture, num_tokens=1, num_squares=0) == 6 * used


def test_a_token_costs_six_flop_a_parameter_and_attention(tmp_path: Path) -> None:
    shape = shape_of(tmp_path, LLAMA_13B)
    dense, attention = 6 * 13_015_864_320 * 4096, 6 * 5120 * 40 * 4096**2
    assert step_flops(count_weights(shape), shape, num_tokens=4096, num_squares=4096**2) == dense + attention
    assert cost_per_squared_token(shape) * 4096 == pytest.approx(attention / dense)
    # OpenChat's model is the planner's default.
    assert cost_per_squared_token(shape) == pytest.approx(1.6e-5, rel=0.02)
