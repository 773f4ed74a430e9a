"""A server in a process of its own, with an engine that does as it is told: `python FILE '{"echo": {...}}'`.

`{"hung_hf": FOLDER}` is the embedded engine with a model, made in that folder, whose ninth step never ends; with
`slow_hf` each step takes a tenth of a second. With `"tells": true` it says `told SECONDS` when an engine is told to
stop an answer, or has ended one, by the clock that all processes share; somebody has to read it then. With
`"gate": FILE` an answer has no more deltas than the file has bytes.
"""

import asyncio
import inspect
import itertools
import json
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from gated_engine_for_tests import GatedEngine

from ochatctl.chat.byte_tokenizer import ByteTokenizer
from ochatctl.chat.families import get_family
from ochatctl.chat.tokenizer import Tokenizer
from ochatctl.engine.base import Delta, Engine, SamplingSpec
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
    slow_hf: str
    app: dict[str, Any]
    tells: bool
    gate: str


class Telling:
    """An engine that says when an answer is over."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def generate(self, prompt_ids: Sequence[int], spec: SamplingSpec) -> AsyncGenerator[Delta, None]:
        async with aclosing(self._engine.generate(prompt_ids, spec)) as deltas:
            try:
                async for delta in deltas:
                    yield delta
            finally:
                print(f"told {time.monotonic()}", flush=True)


async def serve(told: Told) -> None:
    family = get_family("openchat_v3.2")
    tokenizer = ByteTokenizer(family.template.control_strings)
    engine: Engine = EchoEngine(tokenizer, **told.echo)  # type: ignore[arg-type]
    if told.hung_hf:
        engine = slow_hf(tokenizer, Path(told.hung_hf), first_slow=8, seconds=3600)
    if told.slow_hf:
        engine = slow_hf(tokenizer, Path(told.slow_hf), first_slow=0, seconds=0.1)
    if told.gate:
        gate = Path(told.gate)
        engine = cast("Engine", GatedEngine(engine, lambda number: gate.stat().st_size >= number))
    if told.tells:
        engine = cast("Engine", Telling(engine))
    limits = LimitConfig(**told.limits)  # type: ignore[arg-type]
    await engine.start()
    app = create_app(
        engine,
        family,
        tokenizer,
        AppConfig(model_names=("echo",), limits=limits, log=LogConfig(quiet=True, **told.log), **told.app),
    )
    (listener,) = bind("127.0.0.1", 0)
    port = listener.getsockname()[1]
    try:
        await run_app(app, [listener], limits=limits, on_ready=lambda: print(port, flush=True))
    finally:
        await engine.close()


def slow_hf(tokenizer: Tokenizer, folder: Path, *, first_slow: int, seconds: float) -> Engine:
    """Give an engine whose steps, from the one of that number on, take so long: `FOLDER/slow` is there then."""
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

    def slow(self: Any, *args: Any, **kwargs: Any) -> Any:
        if next(steps) >= first_slow:
            (folder / "slow").touch()
            time.sleep(seconds)
        return forward(self, *args, **kwargs)

    # The engine asks for the parameters by their names.
    slow.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]  # a function takes any attribute
    LlamaForCausalLM.forward = slow
    return HfEngine(folder, tokenizer, device="cpu")


def main() -> None:
    table = json.loads(sys.argv[1])
    try:
        asyncio.run(
            serve(
                Told(
                    echo=table.get("echo", {}),
                    limits=table.get("limits", {}),
                    log=table.get("log", {}),
                    hung_hf=table.get("hung_hf", ""),
                    slow_hf=table.get("slow_hf", ""),
                    app=table.get("app", {}),
                    tells=table.get("tells", False),
                    gate=table.get("gate", ""),
                )
            )
        )
    except OchatError as error:
        print(error.message, file=sys.stderr)
        sys.exit(error.exit_code)
    except Interrupted:
        sys.exit(130)


if __name__ == "__main__":
    main()
