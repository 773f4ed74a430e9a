"""The flags of `ochatctl serve`: what they are called, and what their help says."""

from pathlib import Path
from typing import Annotated

import typer

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
NoAuth = Annotated[bool, typer.Option("--no-auth", help="Let everybody call, from other machines too.")]
Cors = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME...", help="For pages of other origins; none by default."),
]
AllowCredentials = Annotated[bool, typer.Option("--allow-credentials", help="Let those pages send cookies.")]

NoWeb = Annotated[bool, typer.Option("--no-web", help="No chat page at `/`: a few lines of text instead.")]

Host = Annotated[str, typer.Option("--host", help="The address to listen at.")]
Port = Annotated[int, typer.Option("--port", min=0, max=65_535, help="0: any free one.")]
Certfile = Annotated[
    Path | None, typer.Option("--ssl-certfile", metavar="FILE.pem", help="HTTPS with this certificate and its chain.")
]
Keyfile = Annotated[
    Path | None, typer.Option("--ssl-keyfile", metavar="FILE.pem", help="Its private key, where not in the same file.")
]
RootPathPrefix = Annotated[
    str, typer.Option("--root-path", metavar="/PREFIX", help="What a proxy puts before every path.")
]
Forwarded = Annotated[
    str,
    typer.Option(
        "--forwarded-allow-ips",
        metavar="IP,IP",
        envvar="FORWARDED_ALLOW_IPS",
        help="Proxies whose X-Forwarded-For is believed; `*`: all.",
    ),
]

TensorParallel = Annotated[
    int, typer.Option("--tensor-parallel-size", "--tp", min=1, help="GPUs that share the model; needs vLLM.")
]
MaxModelLen = Annotated[
    int | None, typer.Option("--max-model-len", min=2, help="Context in tokens; default: the model's.")
]
Utilization = Annotated[
    float | None, typer.Option("--gpu-memory-utilization", min=0.01, max=1, help="Share of a GPU that vLLM takes.")
]
Dtype = Annotated[str, typer.Option("--dtype", help="Of the weights: auto, float32, bfloat16 or float16.")]
Quantization = Annotated[
    str | None, typer.Option("--quantization", metavar="METHOD", help="How the weights are packed, as awq; needs vLLM.")
]
EngineArgs = Annotated[
    list[str] | None,
    typer.Option("--engine-arg", metavar="KEY=VALUE...", help="Any other engine argument of vLLM, as swap_space=4."),
]
ServedNames = Annotated[
    list[str] | None, typer.Option("--served-model-name", help="What clients may call the model, beside its names.")
]
StreamPeriod = Annotated[
    int,
    typer.Option(
        "--stream-period", min=1, help="Tokens a chunk of a stream; the first comes at once. 1: each as it is drawn."
    ),
]
Adapters = Annotated[
    list[str] | None,
    typer.Option("--adapter", metavar="NAME=PATH...", help="LoRA adapters to serve beside the model, as a model NAME."),
]
EngineUseRay = Annotated[bool, typer.Option("--engine-use-ray", help="Accepted; not needed any more.")]
WorkerUseRay = Annotated[
    bool, typer.Option("--worker-use-ray", help="Ray for vLLM's workers, where they do not fit this machine.")
]

LogFile = Annotated[
    str | None,
    typer.Option("--log-file", help="One JSON line a request, without texts; opened again at SIGHUP."),
]
LogMaxMb = Annotated[int, typer.Option("--log-max-mb", min=1, help="Size at which the log file is turned.")]
LogMaxCount = Annotated[int, typer.Option("--log-max-count", min=1, help="Old log files that are kept.")]
LogParams = Annotated[bool, typer.Option("--log-params", help="Log the parameters of requests too.")]
LogText = Annotated[bool, typer.Option("--log-text", help="Log what is asked and answered too: private texts.")]
DisableLogRequests = Annotated[bool, typer.Option("--disable-log-requests", help="No line a request on stderr.")]
DisableLogStats = Annotated[
    bool, typer.Option("--disable-log-stats", help="No statistics of vLLM on stderr; off anyhow.")
]


def _count(flag: str, text: str, *, least: int = 1) -> typer.models.OptionInfo:
    return typer.Option(flag, metavar="N", min=least, help=text)  # type: ignore[no-any-return]  # Typer says Any


def _seconds(flag: str, text: str) -> typer.models.OptionInfo:
    return typer.Option(flag, metavar="SECONDS", min=0.01, help=text)  # type: ignore[no-any-return]  # Typer says Any


# Named as the fields of `LimitConfig`; a test holds the defaults of both together.
MaxBody = Annotated[int, _count("--max-body-bytes", "The largest body: 413 beyond.")]
MaxHeader = Annotated[int, _count("--max-header-bytes", "The largest head of a request: 431 beyond.")]
MaxHeaders = Annotated[int, _count("--max-headers", "The most headers: 431 beyond.")]
MaxConnections = Annotated[int, _count("--max-connections", "The most connections: 503 beyond.")]
MaxDepth = Annotated[int, _count("--max-depth", "Arrays and objects in each other in a body: 400 beyond.")]
MaxChoices = Annotated[int, _count("--max-choices", "The largest `n`: 400 beyond.")]
MaxPrompts = Annotated[int, _count("--max-prompts", "Prompts of a completion, times its `n`: 400 beyond.")]
MaxStops = Annotated[int, _count("--max-stops", "Strings in `stop`: 400 beyond.", least=0)]
MaxStopChars = Annotated[int, _count("--max-stop-chars", "Characters of each: 400 beyond.")]
MaxSchema = Annotated[int, _count("--max-schema-bytes", "The largest schema in `response_format`: 400 beyond.")]
SchemaTimeout = Annotated[
    float, _seconds("--schema-timeout", "For a schema to be compiled, in a process that is killed: 400 beyond.")
]
MaxRunning = Annotated[int, _count("--max-running", "Answers that the engine is given at once.")]
MaxQueue = Annotated[int, _count("--max-queue", "Answers that wait for it: 503 beyond.", least=0)]
RequestsPerMinute = Annotated[int, _count("--requests-per-minute", "A key's: 429 beyond; 0: any number.", least=0)]
TokensPerMinute = Annotated[int, _count("--tokens-per-minute", "A key's, read and drawn: 429 beyond.", least=0)]
MaxConcurrent = Annotated[int, _count("--max-concurrent", "A key's requests at once: 429 beyond.", least=0)]
HeaderTimeout = Annotated[float, _seconds("--header-timeout", "For the head of a request: 408 beyond.")]
BodyTimeout = Annotated[float, _seconds("--body-timeout", "For its body: 408 beyond.")]
QueueTimeout = Annotated[float, _seconds("--queue-timeout", "For a place at the engine: 503 beyond.")]
FirstTokenTimeout = Annotated[float, _seconds("--first-token-timeout", "From there to the first token: 504 beyond.")]
AnswerTimeout = Annotated[float, _seconds("--answer-timeout", "From there to the end of the answer: 504 beyond.")]
WriteTimeout = Annotated[float, _seconds("--write-timeout", "For a client that does not read: cut off beyond.")]
StallTimeout = Annotated[float, _seconds("--stall-timeout", "For an engine that draws nothing: exit 7 beyond.")]
KeepAliveSeconds = Annotated[float, _seconds("--keep-alive", "Silence in a stream before a comment is sent.")]
DrainTimeout = Annotated[float, _seconds("--drain-timeout", "From SIGTERM to the end, for what is under way.")]
