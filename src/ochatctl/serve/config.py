"""What `ochatctl serve` can be told."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ochatctl.engine.load import LoadConfig
from ochatctl.serve.keys import check_keys


@dataclass(frozen=True, kw_only=True, slots=True)
class LogConfig:
    """Where request lines go: to stderr unless `quiet`, and to `file` if there is one."""

    file: str | None = None
    max_mb: int = 128
    max_count: int = 10
    quiet: bool = False
    # "params" adds numbers and switches of a request, "text" all that was asked and answered.
    level: Literal["metadata", "params", "text"] = "metadata"


@dataclass(frozen=True, kw_only=True, slots=True)
class CorsConfig:
    """Which pages of other origins may call; none by default."""

    origins: tuple[str, ...] = ()
    methods: tuple[str, ...] = ("*",)
    headers: tuple[str, ...] = ("*",)
    credentials: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class TlsConfig:
    """A certificate with its chain, and its private key, as PEM files; without them plain HTTP."""

    certfile: Path | None = None
    keyfile: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class LimitConfig:
    """How much is taken, and for how long anybody is waited for. Of those a minute and a key, 0 is no limit."""

    max_body_bytes: int = 4_000_000
    max_header_bytes: int = 65_536
    max_headers: int = 100
    max_connections: int = 8192
    # Of a body's arrays and objects in each other.
    max_depth: int = 100
    max_choices: int = 16
    max_prompts: int = 64
    max_stops: int = 4
    max_stop_chars: int = 1024
    max_schema_bytes: int = 64_000
    # Answers that the engine is given at once, and those that wait; each of a request's `n` counts.
    max_running: int = 2048
    max_queue: int = 2048
    # A key's.
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    max_concurrent: int = 0
    header_timeout_seconds: float = 10.0
    body_timeout_seconds: float = 30.0
    queue_timeout_seconds: float = 120.0
    first_token_timeout_seconds: float = 900.0
    answer_timeout_seconds: float = 3600.0
    # A client that reads nothing for so long is cut off.
    write_timeout_seconds: float = 60.0
    # An engine that draws nothing for so long, though asked, is stuck.
    stall_timeout_seconds: float = 600.0
    keep_alive_seconds: float = 15.0
    drain_timeout_seconds: float = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class AppConfig:
    """What the application needs beside an engine, a family and a tokenizer."""

    # The first one is told to clients; a request may use any.
    model_names: tuple[str, ...]
    # Those of them that are adapters of the engine's, under the same names there.
    adapters: tuple[str, ...] = ()
    # Where a client on this machine finds it.
    base_url: str = "http://localhost:18888/v1"
    # Whether `/` is the chat page.
    web: bool = True
    # What a proxy puts before every path.
    root_path: str = ""
    # Empty: the family's end-of-turn token alone.
    stop_token_ids: tuple[int, ...] = ()
    # Empty: not known.
    trained_conditions: tuple[str, ...] = ()
    api_keys: tuple[str, ...] = ()
    api_keys_file: Path | None = None
    default_temperature: float = 0.7
    stream_period: int = 1
    limits: LimitConfig = field(default_factory=LimitConfig)
    cors: CorsConfig = field(default_factory=CorsConfig)
    log: LogConfig = field(default_factory=lambda: LogConfig(quiet=True))

    @property
    def max_body_bytes(self) -> int:
        """The largest body that is read."""
        return self.limits.max_body_bytes

    @property
    def body_timeout_seconds(self) -> float:
        """How long a body may take."""
        return self.limits.body_timeout_seconds

    @property
    def needs_key(self) -> bool:
        """Whether a request needs a key."""
        return bool(self.api_keys) or self.api_keys_file is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeConfig:
    """The whole command."""

    load: LoadConfig
    host: str = "localhost"
    port: int = 18888
    api_keys: tuple[str, ...] = ()
    api_keys_file: Path | None = None
    no_auth: bool = False
    web: bool = True
    root_path: str = ""
    tls: TlsConfig = field(default_factory=TlsConfig)
    # Proxies whose word on the client's address is taken: addresses, networks, or `*`.
    forwarded_allow_ips: str = "127.0.0.1,::1"
    # Before the names that the model has anyhow.
    served_model_names: tuple[str, ...] = ()
    stream_period: int = 6
    limits: LimitConfig = field(default_factory=LimitConfig)
    cors: CorsConfig = field(default_factory=CorsConfig)
    log: LogConfig = field(default_factory=LogConfig)

    @property
    def needs_key(self) -> bool:
        """Whether a request needs a key."""
        return bool(self.api_keys) or self.api_keys_file is not None

    def __post_init__(self) -> None:
        check_keys(self.api_keys)
