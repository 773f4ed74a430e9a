"""Whether a JSON schema can be held an answer to, found out in a process that can be killed.

A schema may take minutes to compile, and whoever compiles it first, vLLM's front end or its engine, stands still
meanwhile. So it is compiled here before; what takes too long, or fails, never reaches vLLM.

in: a model folder and schemas, out: nothing, or DataError
"""

import asyncio
import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from ochatctl.engine.vllm_child import die_with
from ochatctl.errors import DataError

# The child loads a tokenizer first, which is not the schema's fault.
_START_SECONDS = 120.0
_MAX_KNOWN = 1_000
_READY = b"ready\n"
# What compiling one may take beside the half gigabyte that the child has anyway.
_MOST_BYTES = 2 << 30


class GrammarCheck:
    """Compiles schemas in a child process, one at a time, and remembers what became of them.

    Started early, its child is ready by the first schema: it loads for 5 to 15 seconds.
    """

    def __init__(self, model_dir: Path, *, timeout_seconds: float) -> None:
        self._model_dir = model_dir
        self._timeout_seconds = timeout_seconds
        # Schema -> its fault, or nothing.
        self._known: dict[str, str] = {}
        self._child: asyncio.subprocess.Process | None = None
        self._is_ready = False
        self._vocab_size = 0
        self._lock = asyncio.Lock()
        self._restart: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the child, which loads what needs no vocabulary size meanwhile."""
        if self._child is None or self._child.returncode is not None:
            self._is_ready = False
            self._child = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "ochatctl.engine.grammar",
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
                limit=1 << 20, start_new_session=True,  # a terminal's Ctrl-C is not for it
            )  # fmt: skip

    async def get_ready(self, vocab_size: int) -> None:
        """Return once schemas can be compiled for so many tokens, or the child has ended."""
        async with self._lock:
            self._vocab_size = vocab_size
            try:
                await self._ready_child()
            except TimeoutError:
                await self._kill()

    async def check(self, schema: str) -> None:
        """Compile a schema unless it is known.

        Raises:
            DataError: it takes too long, or is none.
        """
        told = self._known.get(schema)
        if told is None:
            async with self._lock:
                told = self._known.get(schema)
                if told is None:
                    told = await self._compile(schema)
        if told:
            raise DataError(f"`response_format`: the schema cannot be compiled: {told[:300]}")

    async def close(self) -> None:
        """End the child."""
        restart, self._restart = self._restart, None
        if restart is not None:
            restart.cancel()
            await asyncio.gather(restart, return_exceptions=True)
        await self._kill()

    async def _compile(self, schema: str) -> str:
        try:
            child = await self._ready_child()
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdin.write(json.dumps(schema).encode() + b"\n")
            line = await asyncio.wait_for(child.stdout.readline(), self._timeout_seconds)
        except TimeoutError:
            await self._kill()
            told = f"it takes longer than {self._timeout_seconds:g} seconds"
        except asyncio.CancelledError:
            await self._kill()  # its answer would be taken for the next schema's
            raise
        else:
            if line:
                if len(self._known) >= _MAX_KNOWN:
                    self._known.clear()
                self._known[schema] = str(json.loads(line))
                return self._known[schema]
            await self._kill()
            told = "it ended the process that compiled it"
        # Whoever comes next finds a child that is loading already. Not remembered: a busy machine may be at fault.
        self._restart = asyncio.create_task(self.start())
        return told

    async def _ready_child(self) -> asyncio.subprocess.Process:
        if self._restart is not None:
            await self._restart
        await self.start()
        child = self._child
        assert child is not None
        if not self._is_ready:
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdin.write(json.dumps([str(self._model_dir), self._vocab_size]).encode() + b"\n")
            # Where another line comes, or none, it has ended: the next that is read is the end of its output.
            self._is_ready = await asyncio.wait_for(child.stdout.readline(), _START_SECONDS) == _READY
        return child

    async def _kill(self) -> None:
        child, self._child = self._child, None
        if child is not None and child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()


def serve_schemas() -> None:
    """Compile what comes by lines of stdin, after one with the model's folder and the size of its vocabulary.

    Tells the fault of each, or nothing, by lines of stdout.
    """
    # It may be at a long schema when its parent is killed.
    die_with(os.getppid())
    import xgrammar
    from transformers import AutoTokenizer

    model_dir, vocab_size = json.loads(sys.stdin.buffer.readline())
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=vocab_size)
    compiler: Any = xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)
    _limit_memory()
    out = sys.stdout.buffer
    out.write(_READY)
    out.flush()
    for line in sys.stdin.buffer:
        told = ""
        try:
            # Compact, as vLLM is told to.
            compiler.compile_json_schema(json.loads(line), any_whitespace=False, separators=(",", ":"))
        except (RuntimeError, ValueError, TypeError, MemoryError) as error:
            told = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        out.write(json.dumps(told).encode() + b"\n")
        out.flush()


def _limit_memory() -> None:
    """Let no schema take more than its share: what it asks for beyond fails here, and nowhere else."""
    if sys.platform == "linux":
        import resource

        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + _MOST_BYTES, taken + _MOST_BYTES))


if __name__ == "__main__":
    serve_schemas()
