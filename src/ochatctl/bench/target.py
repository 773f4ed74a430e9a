"""Whom a benchmark asks: a model folder with an engine of our own, or an endpoint; its name, and a client for it."""

import contextlib
import hashlib
import json
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ochatctl.bench.cost import refuse_open_key
from ochatctl.engine.client import ChatClient
from ochatctl.engine.client_http import HttpClient
from ochatctl.engine.endpoint import Patience
from ochatctl.engine.load import LoadConfig, open_local_client
from ochatctl.hub import chat_model


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """An OpenAI-compatible endpoint; `model_name` None is its only model."""

    base_url: str
    model_name: str | None = None
    api_key: str | None = field(default=None, repr=False)


Target = LoadConfig | Endpoint
_PATIENCE = Patience()


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """Whose answers a journal holds: a name to show, where it stands, and what tells it from others."""

    name: str
    where: str
    settings: dict[str, Any]

    @property
    def slug(self) -> str:
        """The name as part of a file name."""
        return slug_of(self.name)


def slug_of(name: str) -> str:
    """Give a model's name as part of a file name."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "model"


async def identify(target: Target) -> Identity:
    """Say who would answer; a local engine is not started for it, an endpoint is asked for its only model's name.

    Raises:
        ConfigError: no such folder, several models at the endpoint, or a key over plain HTTP to a public host.
        RemoteError: the hub or the endpoint cannot be reached.
    """
    if isinstance(target, LoadConfig):
        return _local_identity(target)
    refuse_open_key(target.base_url, target.api_key)
    client = HttpClient(target.base_url, target.model_name, target.api_key)
    try:
        name = await client.model_name()
    finally:
        await client.close()
    return Identity(name=name, where=target.base_url, settings={"base_url": target.base_url, "model_name": name})


@contextlib.asynccontextmanager
async def open_client(
    target: Target,
    note: Callable[[str], None],
    *,
    patience: Patience = _PATIENCE,
    on_busy: Callable[[float], None] = lambda wait_seconds: None,
) -> AsyncIterator[ChatClient]:
    """Give a client that answers for the target; the engine or the connections are closed at the end."""
    client: ChatClient
    if isinstance(target, Endpoint):
        client = HttpClient(
            target.base_url, target.model_name, target.api_key, patience=patience, on_busy=on_busy, note=note
        )
    else:
        client = await open_local_client(target, note)
    try:
        yield client
    finally:
        await client.close()


def _local_identity(config: LoadConfig) -> Identity:
    # Only what differs from the defaults: a field that a later version adds must not make a journal a stranger.
    settings = {key: value for key, value in asdict(config).items() if value != getattr(LoadConfig(), key)}
    settings["engine"] = config.engine
    if config.model is None:
        return Identity(name=config.engine, where="this process", settings=settings)
    folder = chat_model(config.model).resolve()
    given = Path(config.model).expanduser()
    # A hub id's folder is named after a commit.
    name = given.resolve().name if given.is_dir() else config.model.partition("@")[0]
    settings |= {"model": str(folder), "weights": _fingerprint(folder)}
    return Identity(name=name, where=str(folder), settings=settings)


def _fingerprint(folder: Path) -> str:
    """Tell a folder's weights from others': hashing 26 GB of them would take longer than a benchmark."""
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("*.json")])
    stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(json.dumps(stats).encode("ascii")).hexdigest()
