"""Whether a JSON schema can be held an answer to, found out in a process that can be killed.

A schema may take minutes to compile, and whoever compiles it first, vLLM's front end or its engine, stands still
meanwhile. So it is compiled here before; what takes too long, or fails, never reaches vLLM.

in: a model folder and schemas, out: nothing, or DataError
"""

import asyncio
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

from ochatctl.errors import DataError

# The child loads a tokenizer first, which is not the schema's fault.
_START_SECONDS = 120.0
_MAX_KNOWN = 1_000
_READY = b"ready\n"


class GrammarCheck:
    """Compiles schemas in a child process, one at a time, and remembers those that are sound."""

    def __init__(self, model_dir: Path, vocab_size: int, *, timeout_seconds: float = 5.0) -> None:
        self._first_line = json.dumps([str(model_dir), vocab_size]).encode() + b"\n"
        self._timeout_seconds = timeout_seconds
        self._known: dict[str, None] = {}
        self._child: asyncio.subprocess.Process | None = None
        self._lock = asyncio.Lock()

    async def check(self, schema: str) -> None:
        """Compile a schema unless it is known.

        Raises:
            DataError: it takes too long, or is none.
        """
        if schema in self._known:
            return
        async with self._lock:
            told = await self._compile(schema)
        if told:
            raise DataError(f"`response_format`: the schema cannot be compiled: {told[:300]}")
        if len(self._known) >= _MAX_KNOWN:
            self._known.clear()
        self._known[schema] = None

    async def close(self) -> None:
        """End the child."""
        child, self._child = self._child, None
        if child is not None and child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()

    async def _compile(self, schema: str) -> str:
        try:
            child = await self._start()
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdin.write(json.dumps(schema).encode() + b"\n")
            line = await asyncio.wait_for(child.stdout.readline(), self._timeout_seconds)
        except TimeoutError:
            await self.close()
            return f"it takes longer than {self._timeout_seconds:g} seconds"
        except asyncio.CancelledError:
            await self.close()  # its answer would be taken for the next schema's
            raise
        if not line:
            await self.close()
            return "it ended the process that compiled it"
        return str(json.loads(line))

    async def _start(self) -> asyncio.subprocess.Process:
        if self._child is None or self._child.returncode is not None:
            self._child = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "ochatctl.engine.grammar",
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
                limit=1 << 20,
            )  # fmt: skip
            assert self._child.stdin is not None
            assert self._child.stdout is not None
            self._child.stdin.write(self._first_line)
            line = await asyncio.wait_for(self._child.stdout.readline(), _START_SECONDS)
            if line != _READY:
                return self._child  # it has ended; the next line that is read is the end of its output
        return self._child


def serve_schemas() -> None:
    """Compile what comes by lines of stdin, after one with the model's folder and the size of its vocabulary.

    Tells the fault of each, or nothing, by lines of stdout.
    """
    import xgrammar
    from transformers import AutoTokenizer

    model_dir, vocab_size = json.loads(sys.stdin.buffer.readline())
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=vocab_size)
    compiler: Any = xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)
    out = sys.stdout.buffer
    out.write(_READY)
    out.flush()
    for line in sys.stdin.buffer:
        told = ""
        try:
            compiler.compile_json_schema(json.loads(line))
        except (RuntimeError, ValueError, TypeError) as error:
            told = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        out.write(json.dumps(told).encode() + b"\n")
        out.flush()


if __name__ == "__main__":
    serve_schemas()
