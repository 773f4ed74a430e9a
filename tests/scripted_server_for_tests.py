"""A server in a process of its own, with an echo engine that does as it is told: `python FILE '{"echo": {...}}'`."""

import asyncio
import json
import sys
from dataclasses import dataclass

from ochatctl.chat.byte_tokenizer import ByteTokenizer
from ochatctl.chat.families import get_family
from ochatctl.engine.echo import EchoEngine
from ochatctl.errors import OchatError
from ochatctl.serve.app import create_app
from ochatctl.serve.config import AppConfig, LimitConfig, LogConfig
from ochatctl.serve.server import Interrupted, bind, run_app


@dataclass
class Told:
    """What the command line says."""

    echo: dict[str, float]
    limits: dict[str, float]
    log: dict[str, str]


async def serve(told: Told) -> None:
    family = get_family("openchat_v3.2")
    tokenizer = ByteTokenizer(family.template.control_strings)
    engine = EchoEngine(tokenizer, **told.echo)  # type: ignore[arg-type]
    limits = LimitConfig(**told.limits)  # type: ignore[arg-type]
    await engine.start()
    app = create_app(
        engine,
        family,
        tokenizer,
        AppConfig(model_names=("echo",), limits=limits, log=LogConfig(quiet=True, **told.log)),
    )
    (listener,) = bind("127.0.0.1", 0)
    port = listener.getsockname()[1]
    await run_app(app, [listener], limits=limits, on_ready=lambda: print(port, flush=True))


def main() -> None:
    table = json.loads(sys.argv[1])
    try:
        asyncio.run(serve(Told(table.get("echo", {}), table.get("limits", {}), table.get("log", {}))))
    except OchatError as error:
        print(error.message, file=sys.stderr)
        sys.exit(error.exit_code)
    except Interrupted:
        sys.exit(130)


if __name__ == "__main__":
    main()
