"""Memory that runs out ends a run with what to lower, whichever library says so."""

from pathlib import Path
from typing import Any

import pytest
import torch

from ochatctl.errors import RunError
from ochatctl.train.config import OptimConfig, TrainConfig
from ochatctl.train.faults import memory_hints


def config_of(**changes: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "model_dir": Path("base"), "data_path": Path("data"), "out_dir": Path("out"), "family": None,
        "strategy": "deepspeed", "device": "cuda", "dtype": "bfloat16", "num_ranks": 2, "num_epochs": 1,
        "batch_tokens": 4096, "optim": OptimConfig(lr=1e-3),
    }  # fmt: skip
    return TrainConfig(**(values | changes))


@pytest.mark.parametrize(
    ("error", "which"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has"), "GPU memory"),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"), "GPU memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "GPU memory"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "GPU memory"),
        (
            torch.distributed.DistBackendError(
                "NCCL error in: ProcessGroupNCCL.cpp:3384, unhandled cuda error (run with NCCL_DEBUG=INFO)\n"
                "ncclUnhandledCudaError: Call to CUDA function failed.\nLast error:\nCuda failure 2 'out of memory'"
            ),
            "GPU memory",
        ),
        (
            torch.distributed.DistBackendError("NCCL error\nLast error:\nFailed to CUDA calloc async 608 bytes"),
            "GPU memory",
        ),
        (RuntimeError("Triton Error [CUDA]: out of memory"), "GPU memory"),
        (
            RuntimeError(
                "No valid triton configs. OutOfMemoryError: out of resource: triton_red_fused Required: 262144 "
                "Hardware limit:101376 Reducing block sizes or `num_stages` may help."
            ),
            "shared memory of a GPU",
        ),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried to "
                "allocate 8000000000000 bytes. Error code 12 (Cannot allocate memory)"
            ),
            "main memory",
        ),
    ],
)
def test_who_runs_out_of_memory_is_told_what_to_lower(error: RuntimeError, which: str) -> None:
    with pytest.raises(RunError) as told, memory_hints(config_of(), "at step 3"):
        raise error
    assert told.value.message.startswith(f"out of {which} at step 3: ")
    assert "\n" not in told.value.message
    assert len(told.value.message) < 300
    assert told.value.hint.startswith("lower `--batch-tokens` (now 4096), or `--ac full`")
    assert "`--zero 3`" in told.value.hint


def test_a_kernel_too_large_for_the_gpu_is_the_compilers() -> None:
    with pytest.raises(RunError) as told, memory_hints(config_of(compile=True), "at step 1"):
        raise RuntimeError("No valid triton configs. OutOfMemoryError: out of resource: triton_red_fused")
    assert told.value.hint == "leave out `--compile`"


def test_what_is_no_lack_of_memory_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError, match="mat1 and mat2"), memory_hints(config_of(), "at step 3"):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
