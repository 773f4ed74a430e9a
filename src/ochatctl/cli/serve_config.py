"""What was typed after `ochatctl serve` -> ServeConfig."""

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ochatctl.errors import UsageProblem

if TYPE_CHECKING:
    from ochatctl.serve.config import ServeConfig

# Fields of `LimitConfig`, and flags of the same names.
LIMITS = (
    "max_body_bytes", "max_header_bytes", "max_headers", "max_connections", "max_running", "max_queue", "max_depth",
    "max_choices", "max_prompts", "max_stops", "max_stop_chars", "max_schema_bytes",
    "requests_per_minute", "tokens_per_minute", "max_concurrent", "header_timeout_seconds", "body_timeout_seconds",
    "queue_timeout_seconds", "first_token_timeout_seconds", "answer_timeout_seconds", "write_timeout_seconds",
    "stall_timeout_seconds", "keep_alive_seconds", "drain_timeout_seconds",
)  # fmt: skip


def build_config(flags: Mapping[str, Any], note: Callable[[str], None]) -> "ServeConfig":
    """Give what the command is to do. `flags` are its parameters by name.

    Raises:
        UsageProblem: no model, keys that are none, or a list that cannot be read.
    """
    from ochatctl.engine.adapters import read_adapter_flags
    from ochatctl.engine.load import LoadConfig, read_engine_args
    from ochatctl.serve.config import CorsConfig, LimitConfig, LogConfig, ServeConfig, TlsConfig

    if flags["model"] is None and flags["engine"] != "echo":
        raise UsageProblem("`--model` is missing", hint="ochatctl serve --model openchat/openchat_v3.2_super")
    api_keys = _names(flags["api_keys"])
    if flags["api_keys"] and not api_keys and not flags["no_auth"]:
        # Most likely a variable that is not set; a gateway on this machine would let everybody through.
        raise UsageProblem("`--api-keys` holds no key", hint="leave it out, or: ochatctl serve --no-auth")
    if flags["engine_use_ray"]:
        note("`--engine-use-ray` is not needed any more: the engine runs in a process of its own anyhow")
    load = LoadConfig(
        **_same(flags, (
            "model", "engine", "family", "max_model_len", "gpu_memory_utilization", "worker_use_ray", "dtype",
            "quantization", "trust_remote_code", "schema_timeout_seconds",
        )),
        tensor_parallel=flags["tensor_parallel_size"],
        adapters=read_adapter_flags(flags["adapter"] or ()),
        engine_args=read_engine_args(flags["engine_arg"] or ()),
    )  # fmt: skip
    return ServeConfig(
        **_same(flags, (
            "host", "port", "api_keys_file", "no_auth", "root_path", "forwarded_allow_ips", "stream_period",
        )),
        load=load,
        api_keys=api_keys,
        web=not flags["no_web"],
        tls=TlsConfig(certfile=flags["ssl_certfile"], keyfile=flags["ssl_keyfile"]),
        served_model_names=_names(flags["served_model_name"]),
        cors=CorsConfig(
            origins=_names(flags["allowed_origins"]),
            methods=_names(flags["allowed_methods"]) or ("*",),
            headers=_names(flags["allowed_headers"]) or ("*",),
            credentials=flags["allow_credentials"],
        ),
        log=LogConfig(
            file=flags["log_file"], max_mb=flags["log_max_mb"], max_count=flags["log_max_count"],
            quiet=flags["disable_log_requests"],
            level="text" if flags["log_text"] else "params" if flags["log_params"] else "metadata",
        ),
        limits=LimitConfig(**_same(flags, LIMITS)),
    )  # fmt: skip


def _same(flags: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: flags[name] for name in names}


def _names(values: list[str] | None) -> tuple[str, ...]:
    """Give a list option's values; each may be several with commas or spaces, or a JSON list, as OpenChat has it."""
    out: list[str] = []
    for value in values or []:
        try:
            items = json.loads(value) if value.startswith("[") else value.split(",")
        except json.JSONDecodeError as error:
            raise UsageProblem(f"`{value}` is not a JSON list: {error}") from error
        out += [str(item).strip() for item in items if str(item).strip()]
    return tuple(dict.fromkeys(out))
