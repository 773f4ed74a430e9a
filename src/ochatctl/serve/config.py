"""What `ochatctl serve` can be told."""

from dataclasses import dataclass, field
from pathlib import Path

from ochatctl.engine.load import LoadConfig
from ochatctl.serve.keys import check_keys


@dataclass(frozen=True, kw_only=True, slots=True)
class LogConfig:
    """Where request lines go: to stderr unless `quiet`, and to `file` if there is one."""

    file: str | None = None
    max_mb: int = 128
    max_count: int = 10
    quiet: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class CorsConfig:
    """Which pages of other origins may call; none by default."""

    origins: tuple[str, ...] = ()
    methods: tuple[str, ...] = ("*",)
    headers: tuple[str, ...] = ("*",)
    credentials: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class AppConfig:
    """What the application needs beside an engine, a family and a tokenizer."""

    # The first one is told to clients; a request may use any.
    model_names: tuple[str, ...]
    # Where a client on this machine finds it.
    base_url: str = "http://localhost:18888/v1"
    # Empty: the family's end-of-turn token alone.
    stop_token_ids: tuple[int, ...] = ()
    # Empty: not known.
    trained_conditions: tuple[str, ...] = ()
    api_keys: tuple[str, ...] = ()
    api_keys_file: Path | None = None
    default_temperature: float = 0.7
    stream_period: int = 1
    max_body_bytes: int = 4_000_000
    body_timeout_seconds: float = 30.0
    cors: CorsConfig = field(default_factory=CorsConfig)
    log: LogConfig = field(default_factory=lambda: LogConfig(quiet=True))

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
    # Before the names that the model has anyhow.
    served_model_names: tuple[str, ...] = ()
    stream_period: int = 1
    drain_timeout_seconds: float = 30.0
    cors: CorsConfig = field(default_factory=CorsConfig)
    log: LogConfig = field(default_factory=LogConfig)

    @property
    def needs_key(self) -> bool:
        """Whether a request needs a key."""
        return bool(self.api_keys) or self.api_keys_file is not None

    def __post_init__(self) -> None:
        check_keys(self.api_keys)
