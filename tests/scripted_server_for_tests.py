"""A server in a process of its own, with an engine that does as it is told: `python FILE '{"echo": {...}}'`.

`{"hung_hf": FOLDER}` is the embedded engine with a model, made in that folder, whose ninth step never ends.
"""

import asyncio
import inspect
import itertools
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ochatctl.chat.byte_tokenizer import ByteTokenizer
from ochatctl.chat.families import get_family
from ochatctl.chat.tokenizer import Tokenizer
from ochatctl.engine.base import Engine
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
    hung_hf: str


async def serve(told: Told) -> None:
    family = get_family("openchat_v3.2")
    tokenizer = ByteTokenizer(family.template.control_strings)
    engine: Engine = EchoEngine(tokenizer, **told.echo)  # type: ignore[arg-type]
    if told.hung_hf:
        engine = hung_hf(tokenizer, Path(told.hung_hf))
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
    try:
        await run_app(app, [listener], limits=limits, on_ready=lambda: print(port, flush=True))
    finally:
        await engine.close()


def hung_hf(tokenizer: Tokenizer, folder: Path) -> Engine:
    """Give an engine that draws a few tokens, and then none."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from ochatctl.engine.hf import HfEngine

    config = LlamaConfig(
        vocab_size=tokenizer.num_tokens, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=512, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    torch.set_num_threads(1)
    LlamaForCausalLM(config).save_pretrained(folder)
    forward, steps = LlamaForCausalLM.forward, itertools.count()

    def hanging(self: Any, *args: Any, **kwargs: Any) -> Any:
        if next(steps) >= 8:
            time.sleep(3600)
        return forward(self, *args, **kwargs)

    # The engine asks for the parameters by their names.
    hanging.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]  # a function takes any attribute
    LlamaForCausalLM.forward = hanging
    return HfEngine(folder, tokenizer, device="cpu")


def main() -> None:
    table = json.loads(sys.argv[1])
    try:
        asyncio.run(
            serve(Told(table.get("echo", {}), table.get("limits", {}), table.get("log", {}), table.get("hung_hf", "")))
        )
    except OchatError as error:
        print(error.message, file=sys.stderr)
        sys.exit(error.exit_code)
    except Interrupted:
        sys.exit(130)


if __name__ == "__main__":
    main()
