"""vLLM as an engine. The only file that imports it.

vLLM is given token ids and gives token ids: our own tokenizer turns them into text, so that all engines agree on every
space, and a folder that holds only a SentencePiece model works too.
"""

import ast
import asyncio
import atexit
import contextlib
import gc
import importlib.util
import itertools
import multiprocessing
import os
import sys
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final

from ochatctl.chat.tokenizer import Tokenizer
from ochatctl.config import did_you_mean
from ochatctl.engine.adapters import Adapter
from ochatctl.engine.answer import Answer
from ochatctl.engine.base import Delta, SamplingSpec, TokenLogprob, check_request
from ochatctl.engine.grammar import GrammarCheck
from ochatctl.engine.vllm_child import PARENT_PID
from ochatctl.errors import ConfigError, DataError, EnvironmentProblem, OchatError, RunError
from ochatctl.extras import require

# Set before vLLM is imported, unless the user set them. Its log goes to stderr, for stdout is the result.
_SETTINGS: Final = {
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_LOGGING_LEVEL": "WARNING",
    # As vLLM's own server: a process with threads cannot safely be forked, and a child that is spawned calls plugins.
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
}
_CPU_SETTINGS: Final = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
# What an argument of ours is called in vLLM's engine arguments; a version that lacks one of them is named.
_NEEDED_ARGS: Final = ("model", "tensor_parallel_size", "max_model_len", "dtype", "generation_config")
_SHUTDOWN_SECONDS: Final = 10.0
_LOOK_SECONDS: Final = 0.1
# Those that vLLM has room for.
_LORA_RANKS: Final = (8, 16, 32, 64, 128, 256, 320, 512)
# The name of our entry point, in `pyproject.toml`.
_PLUGIN: Final = "ochatctl"
# Tokens that one of vLLM's outputs may gather: more are no cheaper, and the watch over progress sees them late.
_MOST_GATHERED: Final = 32
# Where stop strings are ours to find, each token behind one is drawn in vain.
_MOST_GATHERED_BEFORE_STOP: Final = 8


class VllmEngine:
    """Draws answers from vLLM's AsyncLLM, which runs in processes of its own.

    `extra_args` are vLLM's engine arguments, by its names, and win over ours.
    """

    name = "vllm"

    def __init__(
        self,
        model_dir: Path,
        tokenizer: Tokenizer,
        *,
        context_tokens: int | None = None,
        dtype: str = "auto",
        tensor_parallel: int = 1,
        gpu_memory_utilization: float | None = None,
        trust_remote_code: bool = False,
        extra_args: Mapping[str, Any] | None = None,
        adapters: Sequence[Adapter] = (),
        schema_timeout_seconds: float = 5.0,
    ) -> None:
        self.context_tokens = context_tokens or 0
        # vLLM holds an answer to a schema by a tokenizer of its own, which it cannot read from a SentencePiece model.
        has_tokenizer = (model_dir / "tokenizer.json").is_file()
        self.unsupported: frozenset[str] = frozenset(
            ({"adapter"} if not adapters else set()) | ({"json_schema"} if not has_tokenizer else set())
        )
        self._adapters = {adapter.name: adapter for adapter in adapters}
        self._model_dir = model_dir
        self._tokenizer = tokenizer
        self._args: dict[str, Any] = {
            "model": str(model_dir),
            "tensor_parallel_size": tensor_parallel,
            "max_model_len": context_tokens,
            "dtype": dtype,
            "gpu_memory_utilization": gpu_memory_utilization,
            "trust_remote_code": trust_remote_code,
        }
        self._args = {name: value for name, value in self._args.items() if value is not None}
        # Otherwise the model folder's sampling defaults and end tokens would be mixed into every request.
        self._args |= {"generation_config": "vllm", "skip_tokenizer_init": not has_tokenizer, "disable_log_stats": True}
        if adapters:
            most = max(adapter.rank for adapter in adapters)
            rank = next((rank for rank in _LORA_RANKS if rank >= most), most)
            self._args |= {"enable_lora": True, "max_loras": len(adapters), "max_lora_rank": rank}
        # Our name -> vLLM's request for it.
        self._loras: dict[str, Any] = {}
        self._extra_args = dict(extra_args or {})
        self._llm: Any = None
        self._dead = "it is not started"
        self._is_given_up = False
        self._vocab_size = 0
        self._grammars: GrammarCheck | None = None
        self._schema_timeout_seconds = schema_timeout_seconds
        self._numbers = itertools.count()
        self._num_outputs = 0

    @property
    def num_running(self) -> int:
        """Answers that vLLM holds or queues."""
        return 0 if self._llm is None else int(self._llm.output_processor.get_num_unfinished_requests())

    @property
    def progress(self) -> int:
        return self._num_outputs

    async def start(self) -> None:
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name, value)
        _bind_children()
        if "json_schema" not in self.unsupported:
            self._grammars = GrammarCheck(self._model_dir, timeout_seconds=self._schema_timeout_seconds)
            await self._grammars.start()
        try:
            await self._open()
        except BaseException:
            if self._grammars is not None:
                await self._grammars.close()
            raise

    async def generate(self, prompt_ids: Sequence[int], spec: SamplingSpec) -> AsyncGenerator[Delta, None]:
        self.check_alive()
        check_request(self, prompt_ids, spec, vocab_size=self._vocab_size, adapters=self._adapters)
        if spec.json_schema and self._grammars is not None:
            await self._grammars.check(spec.json_schema)
        answer = Answer(self._tokenizer, spec, room_tokens=self.context_tokens - len(prompt_ids))
        from vllm.inputs import tokens_input

        outputs = self._llm.generate(
            tokens_input(list(prompt_ids)),
            _sampling_params(spec),
            f"ochatctl-{next(self._numbers)}",
            lora_request=self._loras.get(spec.adapter),
        )
        try:
            # Closing vLLM's generator aborts the request there.
            async with contextlib.aclosing(outputs):
                async for output in outputs:
                    self._num_outputs += 1
                    for delta in _deltas(output, answer, spec):
                        yield delta
                    if answer.finish_reason:
                        return
        except OchatError:
            raise
        except Exception as error:  # vLLM's families of errors overlap; a table decides
            raise self._error(error) from error
        raise RunError(f"the engine `{self.name}` ended an answer without a reason")

    def check_alive(self) -> None:
        if not self._dead and self._llm.errored:
            self._dead = "its process has died"
        if self._dead:
            raise RunError(f"the engine `{self.name}` cannot answer: {self._dead}")

    async def close(self) -> None:
        self._dead = self._dead or "it is closed"
        if self._grammars is not None:
            await self._grammars.close()
        llm, self._llm = self._llm, None
        if llm is not None:
            await asyncio.to_thread(llm.shutdown, timeout=_SHUTDOWN_SECONDS)
            # Its processes are told to go, and waited for here.
            await asyncio.to_thread(_reap)
            # By now the loop has closed vLLM's sockets; their context would be left to the garbage collector.
            context = getattr(getattr(llm.engine_core, "resources", None), "ctx", None)
            if context is not None:
                await asyncio.to_thread(context.destroy, linger=0)
            # Its `__del__` must not run at the interpreter's end.
            del llm
            gc.collect()

    async def _open(self) -> None:
        # Started in a thread, for loading and compiling take a minute, and signals must be heard meanwhile.
        loading = asyncio.ensure_future(asyncio.to_thread(self._load))
        try:
            await asyncio.shield(loading)
        except asyncio.CancelledError:
            await self._give_up(loading)
            raise
        except OchatError:
            raise
        except Exception as error:  # vLLM names no exceptions for a failed start
            raise _start_error(error, self._model_dir) from error
        self.context_tokens = int(self._llm.model_config.max_model_len)
        self._vocab_size = int(self._llm.model_config.get_vocab_size())
        await self._add_adapters()
        if self._grammars is not None:
            await self._grammars.get_ready(self._vocab_size)
        self._dead = ""

    async def _give_up(self, loading: "asyncio.Future[None]") -> None:
        """End a start that is not waited for any more: its thread ends once vLLM's process has."""
        self._is_given_up = True
        while not loading.done():
            for child in _processes():
                child.kill()
            await asyncio.sleep(_LOOK_SECONDS)
        with contextlib.suppress(Exception):  # whatever vLLM has to say of a process that was killed
            await loading

    async def _add_adapters(self) -> None:
        """Load them now: vLLM would at their first request, and find only then that they do not fit."""
        if not self._adapters:
            return
        from vllm.lora.request import LoRARequest

        for number, adapter in enumerate(self._adapters.values(), 1):
            lora = LoRARequest(adapter.name, number, str(adapter.folder.absolute()))
            try:
                loaded = await self._llm.add_lora(lora)
            except Exception as error:  # vLLM names no exceptions for it
                raise EnvironmentProblem(
                    f"`--adapter {adapter.name}`: vLLM cannot serve it: {str(error).strip() or type(error).__name__}",
                    hint=f"`--engine hf` may, or: ochatctl merge {adapter.folder} --out {adapter.folder}-merged",
                ) from error
            assert loaded
            self._loras[adapter.name] = lora

    def _load(self) -> None:
        require("vllm", extra="vllm")
        from vllm.platforms import current_platform

        if current_platform.is_cpu():
            for name, value in _CPU_SETTINGS.items():
                os.environ.setdefault(name, value)
            # Compiling takes longer than it saves on a CPU.
            self._args.setdefault("enforce_eager", True)
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.async_llm import AsyncLLM

        args = self._args | self._extra_args
        known = set(AsyncEngineArgs.__dataclass_fields__)
        if missing := [name for name in _NEEDED_ARGS if name not in known]:
            raise EnvironmentProblem(
                f"this vLLM takes no `{missing[0]}`", hint="pip install 'ochatctl[vllm]' brings a version that does"
            )
        _refuse_unknown(self._extra_args, known)
        config = AsyncEngineArgs(**{name: value for name, value in args.items() if name in known}).create_engine_config(
            UsageContext.OPENAI_API_SERVER
        )
        if "structured_outputs_config" not in self._extra_args:
            _forbid_whitespace(config.structured_outputs_config)
        if self._is_given_up:
            raise RunError("the start was given up")
        atexit.register(_say_no_more)
        # Not returned: the thread's future would keep it alive until the interpreter's end.
        self._llm = AsyncLLM.from_vllm_config(config, disable_log_stats=True)

    def _error(self, error: Exception) -> OchatError:
        names = {cls.__name__ for cls in type(error).__mro__}
        if "VLLMClientError" in names or (isinstance(error, (ValueError, TypeError)) and not self._llm_is_dead()):
            return DataError(f"vLLM refuses the request: {error}")
        if self._llm_is_dead() or "EngineDeadError" in names:
            self._dead = self._dead or "its process has died"
            return RunError(f"the engine `{self.name}` ended: {self._dead}")
        return RunError(f"the engine `{self.name}` failed at an answer: {type(error).__name__}: {error}")

    def _llm_is_dead(self) -> bool:
        return self._llm is None or bool(self._llm.errored)


def check_argument_names(given: Collection[str]) -> None:
    """Stop before a model is downloaded where vLLM has no such engine argument.

    The names are read from its source, for importing it takes many seconds; a source of another form says nothing
    here, and its start does.

    Raises:
        ConfigError: names it, and the nearest.
    """
    found = importlib.util.find_spec("vllm")
    if found is None or found.origin is None:
        return
    try:
        tree = ast.parse((Path(found.origin).parent / "engine" / "arg_utils.py").read_text(encoding="utf-8"))
    except (OSError, SyntaxError):
        return
    known = {
        line.target.id
        for part in tree.body
        if isinstance(part, ast.ClassDef) and part.name in ("EngineArgs", "AsyncEngineArgs")
        for line in part.body
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
    }
    if known.issuperset(_NEEDED_ARGS):
        _refuse_unknown(given, known)


def _refuse_unknown(given: Collection[str], known: Collection[str]) -> None:
    if unknown := sorted(set(given).difference(known)):
        raise ConfigError(
            f"`--engine-arg {unknown[0]}=...`: vLLM has no such engine argument{did_you_mean(unknown[0], known)}"
        )


def _processes() -> list[BaseProcess]:
    return [child for child in multiprocessing.active_children() if child.name.startswith(("EngineCore", "VLLM"))]


def _reap() -> None:
    for child in _processes():
        child.join(_SHUTDOWN_SECONDS)


def _bind_children() -> None:
    """See to it that vLLM's processes end with this one; a list of plugins that the user has set gets ours too."""
    os.environ[PARENT_PID] = str(os.getpid())
    plugins = os.environ.get("VLLM_PLUGINS")
    if plugins is not None and _PLUGIN not in plugins.split(","):
        os.environ["VLLM_PLUGINS"] = f"{plugins},{_PLUGIN}"


def _say_no_more() -> None:
    """Leave unsaid what Triton's binding prints as the interpreter ends: a page of objects that vLLM has kept."""
    sys.stderr.flush()
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)


def _forbid_whitespace(structured_outputs: Any) -> None:
    """Let no whitespace stand between the parts of an answer to a schema.

    Where it may, a model that would rather say something else draws it up to `max_tokens`, and nothing can be parsed.
    """
    # Set afterwards, for vLLM takes it only along with one fixed backend, and none of them knows every schema.
    if hasattr(structured_outputs, "disable_any_whitespace"):
        structured_outputs.disable_any_whitespace = True


def _sampling_params(spec: SamplingSpec) -> Any:
    from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams

    return SamplingParams(
        max_tokens=spec.max_tokens,
        temperature=spec.temperature,
        top_p=spec.top_p,
        top_k=spec.top_k,
        min_p=spec.min_p,
        presence_penalty=spec.presence_penalty,
        frequency_penalty=spec.frequency_penalty,
        repetition_penalty=spec.repetition_penalty,
        logit_bias=dict(spec.logit_bias) or None,
        seed=spec.seed,
        stop_token_ids=list(spec.stop_token_ids),
        logprobs=spec.num_logprobs,
        structured_outputs=StructuredOutputsParams(json=spec.json_schema) if spec.json_schema else None,
        # Stop strings and text are ours.
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
        stream_interval=min(spec.stream_period, _MOST_GATHERED_BEFORE_STOP if spec.stop else _MOST_GATHERED),
        skip_clone=True,
    )


def _deltas(output: Any, answer: Answer, spec: SamplingSpec) -> list[Delta]:
    """Give the deltas of one of vLLM's outputs, which holds several tokens where we were slow to ask."""
    deltas: list[Delta] = []
    for part in output.outputs:
        for position, token_id in enumerate(part.token_ids):
            logprob = None
            if spec.num_logprobs is not None and part.logprobs:
                logprob = _logprob(token_id, part.logprobs[position], spec.num_logprobs)
            if delta := answer.push(token_id, logprob):
                deltas.append(delta)
        if part.finish_reason and answer.finish_reason is None:
            if part.finish_reason not in ("stop", "length"):
                raise RunError(f"the engine `vllm` ended an answer: {part.finish_reason}")
            deltas.append(answer.finish(part.finish_reason))
    return deltas


def _logprob(token_id: int, table: Mapping[int, Any], count: int) -> TokenLogprob:
    best = sorted(table.items(), key=lambda item: item[1].rank or 0)
    top = tuple((index, float(value.logprob)) for index, value in best[:count])
    return TokenLogprob(token_id=token_id, logprob=float(table[token_id].logprob), top=top)


def _start_error(error: Exception, model_dir: Path) -> OchatError:
    text = str(error).strip() or type(error).__name__
    # Most come from pydantic, which puts its own words around vLLM's.
    if faults := getattr(error, "errors", None):
        text = str(faults()[0]["msg"]).removeprefix("Value error, ").rstrip(".")
    if "tensor parallel" in text:
        return ConfigError(f"vLLM cannot split `{model_dir}` so: {text}", hint="`--tp 1`, or another divisor")
    if "memory" in text.lower():
        return EnvironmentProblem(f"vLLM: `{model_dir}` does not fit: {text}", hint="ochatctl doctor")
    if isinstance(error, (ValueError, TypeError, OSError)):
        return ConfigError(f"vLLM cannot load `{model_dir}`: {text}", hint="`--engine hf` may")
    return RunError(f"vLLM failed to start: {text}", hint="`VLLM_LOGGING_LEVEL=INFO` says more")
