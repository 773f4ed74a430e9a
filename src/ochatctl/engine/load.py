"""A model folder, or a hub id -> an engine with its family and tokenizer. Used by serve, chat and benchmarks."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ochatctl.chat.byte_tokenizer import ByteTokenizer
from ochatctl.chat.families import Family, get_family, load_family, read_card
from ochatctl.chat.tokenizer import Tokenizer
from ochatctl.engine.adapters import Adapter, find_adapters
from ochatctl.engine.base import Engine, check_dtype
from ochatctl.engine.choose import Choice, choose_engine, install_line, open_engine
from ochatctl.engine.client import Note
from ochatctl.engine.client_local import LocalClient
from ochatctl.engine.echo import EchoEngine
from ochatctl.engine.prompt import stop_token_ids
from ochatctl.errors import ConfigError, EnvironmentProblem, UsageProblem
from ochatctl.extras import has
from ochatctl.files import read_optional_table
from ochatctl.hub import adapter_base, chat_model
from ochatctl.memory import gpus

_ECHO_FAMILY = "openchat_v3.2"


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadConfig:
    """Which model, and what draws its answers. Without a model only the echo engine can."""

    model: str | None = None
    engine: str = "auto"
    family: str | None = None
    tensor_parallel: int = 1
    max_model_len: int | None = None
    gpu_memory_utilization: float | None = None
    worker_use_ray: bool = False
    dtype: str = "auto"
    quantization: str | None = None
    # Name -> folder or hub id, served beside the model.
    adapters: Mapping[str, str] = field(default_factory=dict)
    # Passed on to vLLM as they are.
    engine_args: Mapping[str, Any] = field(default_factory=dict)
    # For a schema to be compiled; the process that does it is killed then.
    schema_timeout_seconds: float = 5.0
    trust_remote_code: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundModel:
    """What is known of a model before an engine is made of it. The first of `names` is its own."""

    choice: Choice
    family: Family
    tokenizer: Tokenizer
    names: tuple[str, ...]
    # Each is a model to clients.
    adapters: tuple[Adapter, ...] = ()
    # Where its weights are; None: it has none.
    folder: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedModel:
    """An engine that is yet to be started, and what is known of its model. The first of `names` is its own."""

    engine: Engine
    family: Family
    tokenizer: Tokenizer
    stop_token_ids: tuple[int, ...]
    trained_conditions: tuple[str, ...]
    names: tuple[str, ...]
    # Each is a model to clients.
    adapters: tuple[Adapter, ...] = ()
    # Where its weights are; None: it has none.
    folder: Path | None = None


def read_engine_args(texts: Iterable[str]) -> dict[str, Any]:
    """Read `key=value` each; a value that is no JSON is a string.

    Raises:
        UsageProblem: no `=` in it.
    """
    out: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        name = key.strip().removeprefix("--").replace("-", "_")
        if not equals or not name.isidentifier():
            raise UsageProblem(f"`--engine-arg {text}` is not `key=value`", hint="--engine-arg swap_space=4")
        try:
            out[name] = json.loads(value)
        except json.JSONDecodeError:
            out[name] = {"True": True, "False": False, "None": None}.get(value, value)
    return out


def model_names(model: str | None, family: Family) -> tuple[str, ...]:
    """Give what a model may be called: its folder's name or its hub id, then every name of its family."""
    if model is None:
        own = ["echo"]
    elif Path(model).expanduser().is_dir():
        own = [Path(model).expanduser().resolve().name]
    else:
        hub_id = model.partition("@")[0]
        own = [hub_id, hub_id.rpartition("/")[2]]
    return tuple(dict.fromkeys((*own, *family.names)))


def load_model(config: LoadConfig, note: Note) -> LoadedModel:
    """Find a model and make its engine; says aloud which engine, why, and which epoch.

    Raises:
        UsageProblem: no model, and an engine that needs one.
        ConfigError: the folder is not ready to be served.
        EnvironmentProblem: this machine or this engine cannot do what was asked.
    """
    found = find_model(config, note)
    tokenizer, folder = found.tokenizer, found.folder
    if folder is None:
        engine: Engine = EchoEngine(tokenizer, context_tokens=config.max_model_len or found.family.context_tokens)
    else:
        engine = open_engine(
            found.choice,
            folder,
            tokenizer,
            context_tokens=config.max_model_len,
            tensor_parallel=config.tensor_parallel,
            gpu_memory_utilization=config.gpu_memory_utilization,
            trust_remote_code=config.trust_remote_code,
            dtype=config.dtype,
            vllm_args=_vllm_args(config),
            adapters=found.adapters,
            schema_timeout_seconds=config.schema_timeout_seconds,
        )
    card = read_card(folder) if folder is not None else None
    return LoadedModel(
        engine=engine,
        family=found.family,
        tokenizer=tokenizer,
        stop_token_ids=stop_token_ids(found.family, tokenizer, folder),
        trained_conditions=tuple(card.conditions) if card is not None else (),
        names=found.names,
        adapters=found.adapters,
        folder=folder,
    )


def find_model(config: LoadConfig, note: Note, *, say_engine: bool = True) -> FoundModel:
    """Choose an engine, and read a model's family and tokenizer; neither torch nor an engine is imported for it.

    Raises what `load_model` does.
    """
    # All this before a model is downloaded, for what was asked may be out of reach.
    by_ray = _by_ray(config)
    choice = choose_engine(config.engine, tensor_parallel=1 if by_ray else config.tensor_parallel)
    if say_engine:
        note(f"engine: {choice.kind}: {choice.reason}")
    if config.worker_use_ray:
        note("workers: Ray's" if by_ray else "workers: `--worker-use-ray` is not needed, the model fits this machine")
    _check_vllm_flags(config, choice.kind, by_ray=by_ray)
    check_dtype(config.dtype, more=("half", "float") if choice.kind == "vllm" else ())
    if choice.kind == "vllm" and config.engine_args:
        from ochatctl.engine.vllm import check_argument_names

        check_argument_names(config.engine_args)
    if config.model is None:
        if choice.kind != "echo":
            raise UsageProblem("`--model` is missing", hint="ochatctl serve --model openchat/openchat_v3.2_super")
        return _echo(config, choice)
    folder = chat_model(config.model)
    if folder.name.startswith("ep_") and not config.model.rstrip("/").endswith(folder.name):
        note(f"model: the last epoch of this training run, `{folder.name}`")
    if choice.kind == "vllm" and adapter_base(folder) is not None:
        choice = _for_adapters(config, folder, note)
    if choice.kind == "vllm":
        _check_split(folder, config.tensor_parallel)
    family, tokenizer = load_family(folder, config.family, trust_remote_code=config.trust_remote_code)
    names = model_names(config.model, family)
    adapters = find_adapters(config.adapters, family)
    if taken := next((adapter.name for adapter in adapters if adapter.name in names), None):
        raise ConfigError(f"`--adapter {taken}=...`: the model itself is called `{taken}`", hint="choose another name")
    return FoundModel(choice=choice, family=family, tokenizer=tokenizer, names=names, adapters=adapters, folder=folder)


async def open_local_client(config: LoadConfig, note: Note) -> LocalClient:
    """Load a model, start its engine, and give a client for it; closing the client closes the engine."""
    model = load_model(config, note)
    try:
        await model.engine.start()
    except BaseException:
        await model.engine.close()
        raise
    return LocalClient(
        model.engine,
        model.family,
        model.tokenizer,
        stop_ids=model.stop_token_ids,
        trained_conditions=model.trained_conditions,
        note=note,
    )


def _by_ray(config: LoadConfig) -> bool:
    """Tell whether vLLM's workers are to be spread by Ray: asked for, installed, and more GPUs wanted than are here."""
    return config.worker_use_ray and has("ray") and config.tensor_parallel > len(gpus())


def _vllm_args(config: LoadConfig) -> dict[str, Any] | None:
    args = dict(config.engine_args)
    if config.quantization is not None:
        args["quantization"] = config.quantization
    if _by_ray(config):
        args["distributed_executor_backend"] = "ray"
    return args or None


def _check_vllm_flags(config: LoadConfig, kind: str, *, by_ray: bool) -> None:
    """Stop where a flag was given that the chosen engine cannot honour."""
    flags = {
        "--gpu-memory-utilization": config.gpu_memory_utilization is not None,
        "--quantization": config.quantization is not None,
        "--engine-arg": bool(config.engine_args),
        "--worker-use-ray": by_ray,
    }
    flag = next((name for name, is_given in flags.items() if is_given), None)
    if kind == "echo" and config.dtype != "auto":
        raise ConfigError("`--dtype`: the engine `echo` has no weights", hint="leave `--dtype` out")
    if kind == "echo" and config.adapters:
        raise EnvironmentProblem("`--adapter`: the engine `echo` has no weights", hint="leave `--adapter` out")
    if kind == "vllm" or flag is None:
        return
    message = f"`{flag}` is vLLM's, and the engine is `{kind}`"
    if config.engine == "auto":
        raise EnvironmentProblem(message, hint=install_line())
    raise ConfigError(message, hint=f"leave `{flag}` out, or add `--engine vllm`")


def _for_adapters(config: LoadConfig, folder: Path, note: Note) -> Choice:
    """Give the embedded engine, which takes adapters as they are, where nobody asked for vLLM."""
    merge = f"ochatctl merge {folder} --out {folder}-merged"
    if config.engine != "auto":
        raise ConfigError(f"`{folder}` holds adapters, and vLLM is to be given a whole model", hint=merge)
    note(f"engine: hf: `{folder.name}` holds adapters; after `{merge}` vLLM can serve it")
    return choose_engine("hf")


def _check_split(folder: Path, tensor_parallel: int) -> None:
    """Stop where a model's heads cannot be dealt out evenly, which is vLLM's own rule."""
    table = read_optional_table(folder / "config.json")
    text = table.get("text_config")
    num_heads = (text if isinstance(text, dict) else table).get("num_attention_heads")
    if not isinstance(num_heads, int) or num_heads % tensor_parallel == 0:
        return
    fits = next(number for number in range(tensor_parallel, 0, -1) if num_heads % number == 0)
    raise ConfigError(
        f"`--tp {tensor_parallel}`: vLLM cannot split the {num_heads} attention heads of `{folder}` so",
        hint=f"`--tp {fits}`, or another divisor",
    )


def _echo(config: LoadConfig, choice: Choice) -> FoundModel:
    """Give the model that needs no folder."""
    family = get_family(config.family or _ECHO_FAMILY)
    tokenizer = ByteTokenizer(family.template.control_strings)
    return FoundModel(choice=choice, family=family, tokenizer=tokenizer, names=model_names(None, family))
