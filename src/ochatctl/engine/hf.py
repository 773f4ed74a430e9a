"""The embedded engine: continuous batching over a transformers model, on CPU, CUDA or Apple's GPUs.

One worker thread owns the model. Between two steps requests join, leave, and are aborted; a prompt is read in chunks,
so that a long one holds the others up for one chunk at a time.
"""

import asyncio
import contextlib
import os
import queue
import threading
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch

from ochatctl.chat.tokenizer import Tokenizer
from ochatctl.engine.adapters import Adapter
from ochatctl.engine.answer import Answer
from ochatctl.engine.base import Delta, SamplingSpec, TokenLogprob, check_dtype, check_request
from ochatctl.engine.hf_batch import Batch, Row, with_adapters
from ochatctl.engine.hf_sampler import Sampler, draw
from ochatctl.errors import ConfigError, EnvironmentProblem, OchatError, RunError
from ochatctl.extras import require
from ochatctl.hub import adapter_base, adapter_base_dir
from ochatctl.memory import num_cpus, ram

_CHUNK_TOKENS: Final = {"cpu": 64}
_CHUNK_TOKENS_GPU = 512
_MAX_RUNNING: Final = {"cpu": 16}
_MAX_RUNNING_GPU = 64
# Of the memory that is there once the model is loaded. Growing by a token copies a layer, joining copies them all.
_CACHE_RATIO = 0.4
# How long the step under way is waited for.
_CLOSE_SECONDS: Final = 3.0
_UNKNOWN_RAM_BYTES: Final = 8 << 30
_PLAIN_ATTENTION = frozenset({"full_attention", "sliding_attention"})


def num_gpus() -> int:
    """Count the CUDA (or ROCm) devices that this process may use, without starting CUDA."""
    return int(torch.cuda.device_count())


def pick_device() -> str:
    """Give the device that the embedded engine runs on: the first GPU, else the CPU."""
    if num_gpus():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


@dataclass(slots=True, eq=False)
class _Request:
    """One answer, on its way through the worker thread."""

    prompt_ids: list[int]
    spec: SamplingSpec
    answer: Answer
    out: "asyncio.Queue[Delta | OchatError]" = field(default_factory=asyncio.Queue)
    aborted: bool = False
    # Set when the request gets its slot.
    row: Row | None = None
    sampler: Sampler | None = None

    @property
    def most_tokens(self) -> int:
        """The cache that it needs at most."""
        return len(self.prompt_ids) + self.spec.max_tokens


class HfEngine:
    """Draws answers from a transformers model in this process.

    `dtype` "auto" is float32 on a CPU, else what the model's config says. Requests beyond `max_running`, or beyond the
    memory that the key-value cache may take, wait for a slot in the order of their coming.

    Guarantees: in float32, a greedy answer equals that of `model.generate`; an answer depends on its own request and
    seed, not on who shares the batch, up to the rounding of the matrix products (which in 16 bits can show).

    Raises:
        ConfigError: no such `dtype`.
    """

    name = "hf"

    def __init__(
        self,
        model_dir: Path,
        tokenizer: Tokenizer,
        *,
        context_tokens: int | None = None,
        dtype: str = "auto",
        device: str = "auto",
        max_running: int | None = None,
        trust_remote_code: bool = False,
        adapters: Sequence[Adapter] = (),
    ) -> None:
        check_dtype(dtype)
        self.context_tokens = context_tokens or 0
        self._adapters = {adapter.name: adapter for adapter in adapters}
        self.unsupported: frozenset[str] = frozenset({"json_schema"} if adapters else {"json_schema", "adapter"})
        self._model_dir = model_dir
        self._tokenizer = tokenizer
        self._dtype = dtype
        self._device = torch.device(pick_device() if device == "auto" else device)
        self._max_running = max_running or _MAX_RUNNING.get(self._device.type, _MAX_RUNNING_GPU)
        self._chunk_tokens = _CHUNK_TOKENS.get(self._device.type, _CHUNK_TOKENS_GPU)
        self._trust_remote_code = trust_remote_code
        self._vocab_size = 0
        self._cache_tokens = 0
        self._dead = "it is not started"
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        # What comes in for the worker: requests, and None to stop.
        self._inbox: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        # The worker's own; nobody else touches them.
        self._waiting: list[_Request] = []
        self._reading: _Request | None = None
        self._running: list[_Request] = []
        self._outbox: list[tuple[_Request, Delta | OchatError]] = []
        # Chunks read and tokens drawn.
        self._num_steps = 0

    @property
    def num_running(self) -> int:
        """Answers that hold a slot; read at any moment, and exact between two steps."""
        return len(self._running) + (self._reading is not None)

    @property
    def progress(self) -> int:
        return self._num_steps

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        loaded: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._work, args=(loaded,), name="ochatctl-hf", daemon=True)
        self._thread.start()
        await loaded

    async def generate(self, prompt_ids: Sequence[int], spec: SamplingSpec) -> AsyncGenerator[Delta, None]:
        self.check_alive()
        check_request(self, prompt_ids, spec, vocab_size=self._vocab_size, adapters=self._adapters)
        answer = Answer(self._tokenizer, spec, room_tokens=self.context_tokens - len(prompt_ids))
        request = _Request(list(prompt_ids), spec, answer)
        self._inbox.put(request)
        # The worker may have died between the first look and `put`; after it, whoever dies empties the inbox.
        self.check_alive()
        try:
            while True:
                item = await request.out.get()
                if isinstance(item, OchatError):
                    raise item
                yield item
                if item.finish_reason:
                    return
        finally:
            request.aborted = True

    def check_alive(self) -> None:
        if self._dead:
            raise RunError(f"the engine `{self.name}` cannot answer: {self._dead}")

    async def close(self) -> None:
        self._dead = self._dead or "it is closed"
        if self._thread is not None:
            thread, self._thread = self._thread, None
            self._inbox.put(None)
            await asyncio.to_thread(thread.join, _CLOSE_SECONDS)
            if thread.is_alive():
                # It ends with the process; nobody waits for what it draws.
                raise RunError(f"the engine `{self.name}` is stuck: a step has not ended in {_CLOSE_SECONDS:g} seconds")

    def _work(self, loaded: "asyncio.Future[None]") -> None:
        try:
            batch = Batch(self._load(), device=self._device, adapters=tuple(self._adapters))
        except BaseException as error:  # noqa: BLE001  # whatever it is, `start` raises it
            self._tell(_set_error, loaded, _load_error(error, self._model_dir))
            return
        self._dead = ""
        self._tell(_set_done, loaded)
        try:
            with torch.inference_mode():
                while self._take_in():
                    self._leave_aborted(batch)
                    self._read_chunk(batch)
                    self._send()  # a first token does not wait for everybody's next
                    self._step(batch)
                    self._send()
            reason = "it is closed"
        except BaseException as error:  # noqa: BLE001  # a dead worker must never leave a stream waiting
            reason = f"{type(error).__name__}: {error}"
        self._end_all(reason)

    def _load(self) -> Any:
        from transformers import AutoConfig, AutoModelForCausalLM
        from transformers.utils import logging

        logging.disable_progress_bar()
        if self._device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
            # One CPU is left to the event loop and the clients: where torch's threads wait for a CPU that is taken,
            # every small product waits (19 tokens/s became 1.3 on two busy CPUs).
            torch.set_num_threads(max(1, num_cpus() - 1))
        dtype = "float32" if self._dtype == "auto" and self._device.type == "cpu" else self._dtype
        has_adapters = adapter_base(self._model_dir) is not None
        weights_dir = adapter_base_dir(self._model_dir) if has_adapters else self._model_dir
        # What was trained may take a longer context than its base: its own config says it.
        own_config = self._model_dir if (self._model_dir / "config.json").is_file() else weights_dir
        model = AutoModelForCausalLM.from_pretrained(
            weights_dir,
            config=AutoConfig.from_pretrained(own_config, trust_remote_code=self._trust_remote_code),
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=self._trust_remote_code,
        )
        if has_adapters:
            peft = require("peft", extra="train")
            model = peft.PeftModel.from_pretrained(model, self._model_dir).merge_and_unload()
        config = model.config.get_text_config()
        odd = set(getattr(config, "layer_types", None) or ()) - _PLAIN_ATTENTION
        if odd or getattr(model, "_is_stateful", False):
            kinds = ", ".join(sorted(odd)) or "state"
            raise ConfigError(
                f"`{self._model_dir}` has layers that the embedded engine cannot batch ({kinds})",
                hint="add `--engine vllm`",
            )
        if self._adapters:
            model = with_adapters(model, [adapter.folder for adapter in self._adapters.values()])
        model = model.to(self._device).eval()
        own = int(getattr(config, "max_position_embeddings", 0) or 0)
        if not self.context_tokens:
            self.context_tokens = own or 4096
        elif own and self.context_tokens > own:
            raise ConfigError(f"a context of {self.context_tokens} tokens is asked for, and the model has {own}")
        self._vocab_size = int(config.vocab_size)
        self._cache_tokens = int(_free_bytes(self._device) * _CACHE_RATIO) // _token_bytes(config, model.dtype)
        return model

    def _take_in(self) -> bool:
        """Move what came in to the waiting list, and wait where there is nothing to do; False means stop."""
        idle = not (self._waiting or self._reading or self._running)
        while True:
            try:
                request = self._inbox.get(block=idle)
            except queue.Empty:
                return True
            if request is None:
                return False
            self._waiting.append(request)
            idle = False

    def _leave_aborted(self, batch: Batch) -> None:
        self._waiting = [request for request in self._waiting if not request.aborted]
        if self._reading is not None and self._reading.aborted:
            self._reading = None
        self._keep(batch, [request for request in self._running if not request.aborted])

    def _read_chunk(self, batch: Batch) -> None:
        if self._reading is None and self._waiting and self._has_room(self._waiting[0]):
            request = self._reading = self._waiting.pop(0)
            request.row = Row(unread_ids=request.prompt_ids, adapter=request.spec.adapter)
            request.sampler = Sampler(
                request.spec, request.prompt_ids, vocab_size=self._vocab_size, device=batch.logits_device
            )
        if self._reading is None:
            return
        request = self._reading
        assert request.row is not None
        logits_BV = batch.read(request.row, self._chunk_tokens)
        self._num_steps += 1
        if logits_BV is not None:
            self._push_drawn(logits_BV, [request])
            if request.answer.finish_reason is None:
                batch.join(request.row)
                self._running.append(request)
            # Last: at every moment a request is in one of the lists, so that whatever fails is told to all.
            self._reading = None

    def _step(self, batch: Batch) -> None:
        if self._running:
            self._push_drawn(batch.step(), self._running)
            self._num_steps += 1
            self._keep(batch, [request for request in self._running if request.answer.finish_reason is None])

    def _has_room(self, request: _Request) -> bool:
        """Tell whether a request may join: the cache is a rectangle, as wide as the longest answer may become."""
        if not self._running:
            return True
        width = min(self.context_tokens, max(each.most_tokens for each in [*self._running, request]))
        height = len(self._running) + 1
        return height <= self._max_running and height * width <= self._cache_tokens

    def _push_drawn(self, logits_BV: torch.Tensor, requests: Sequence[_Request]) -> None:
        samplers = [request.sampler for request in requests if request.sampler is not None]
        drawn: list[tuple[int, TokenLogprob | None]] = draw(logits_BV, samplers)
        for request, (token_id, logprob) in zip(requests, drawn, strict=True):
            assert request.row is not None
            request.row.unread_ids = [token_id]
            if delta := request.answer.push(token_id, logprob):
                self._outbox.append((request, delta))

    def _keep(self, batch: Batch, requests: list[_Request]) -> None:
        self._running = requests
        batch.keep([request.row for request in requests if request.row is not None])

    def _end_all(self, reason: str) -> None:
        self._dead = reason
        ended = [*self._waiting, *([self._reading] if self._reading else []), *self._running]
        with contextlib.suppress(queue.Empty):
            while True:
                if (request := self._inbox.get_nowait()) is not None:
                    ended.append(request)
        self._waiting, self._reading, self._running = [], None, []
        # One exception a stream: a shared one would gather the tracebacks of all.
        self._outbox += [(request, RunError(f"the engine `{self.name}` ended: {reason}")) for request in ended]
        self._send()

    def _send(self) -> None:
        if self._outbox:
            self._tell(_deliver, self._outbox)
            self._outbox = []

    def _tell(self, function: Any, *args: Any) -> None:
        """Run a function on the event loop; a loop that is closed has nobody left to be told."""
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *args)


def _deliver(items: list[tuple[_Request, Delta | OchatError]]) -> None:
    for request, item in items:
        request.out.put_nowait(item)


def _set_done(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


def _set_error(future: "asyncio.Future[None]", error: OchatError) -> None:
    if not future.done():
        future.set_exception(error)


def _load_error(error: BaseException, model_dir: Path) -> OchatError:
    if isinstance(error, OchatError):
        return error
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return EnvironmentProblem(f"`{model_dir}` does not fit the memory: {error}", hint="ochatctl doctor")
    if isinstance(error, (OSError, ValueError, KeyError)):
        return ConfigError(f"`{model_dir}` cannot be loaded: {error}")
    return RunError(f"`{model_dir}` cannot be loaded: {type(error).__name__}: {error}")


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    found = ram()
    return found.available_bytes or (found.total_bytes or _UNKNOWN_RAM_BYTES) // 2


def _token_bytes(config: Any, dtype: torch.dtype) -> int:
    """Give the size of one token in the key-value cache of all layers."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * head_size * dtype.itemsize)
