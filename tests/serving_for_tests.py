"""A real server on a real socket, in a thread, for tests."""

import asyncio
import contextlib
import dataclasses
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import uvicorn

from ochatctl.chat.byte_tokenizer import ByteTokenizer
from ochatctl.chat.families import Family, get_family
from ochatctl.chat.tokenizer import Tokenizer
from ochatctl.engine.base import Engine
from ochatctl.engine.echo import EchoEngine
from ochatctl.serve.app import create_app
from ochatctl.serve.config import AppConfig, LimitConfig
from ochatctl.serve.connection import connection_class
from ochatctl.serve.server import bind


@dataclass(frozen=True, kw_only=True)
class Served:
    """A server that runs. `on_loop` does something on its event loop."""

    base_url: str
    engine: EchoEngine
    loop: asyncio.AbstractEventLoop


def byte_tokenizer(family: Family) -> ByteTokenizer:
    return ByteTokenizer(family.template.control_strings)


@contextlib.contextmanager
def serving(
    family_name: str = "openchat_v3.2", engine: Any = None, tokenizer: Tokenizer | None = None, **settings: Any
) -> Iterator[Served]:
    """Serve an engine (default: echo) until the block ends."""
    family = get_family(family_name)
    tokenizer = tokenizer or byte_tokenizer(family)
    chosen: Engine = engine or EchoEngine(tokenizer)
    names = {field.name for field in dataclasses.fields(LimitConfig)} & set(settings)
    limits = LimitConfig(**{name: settings.pop(name) for name in names})
    config = AppConfig(limits=limits, model_names=settings.pop("model_names", ("echo", *family.names)), **settings)
    app = create_app(chosen, family, tokenizer, config)
    (listener,) = bind("127.0.0.1", 0)
    port = listener.getsockname()[1]
    http = connection_class(limits, app.state.outside.refused)
    server = uvicorn.Server(uvicorn.Config(app, http=http, log_config=None, access_log=False, lifespan="on", ws="none"))
    loops: list[asyncio.AbstractEventLoop] = []

    async def run() -> None:
        loops.append(asyncio.get_running_loop())
        await app.state.outside.engine.start()  # through the queue, which learns the context then
        await server.serve(sockets=[listener])
        await chosen.close()

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise RuntimeError("the server did not start")
            threading.Event().wait(0.005)
        yield Served(base_url=f"http://127.0.0.1:{port}", engine=chosen, loop=loops[0])  # type: ignore[arg-type]
    finally:
        server.should_exit = True
        thread.join(timeout=60)
        assert not thread.is_alive()
