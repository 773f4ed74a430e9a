"""A schema that cannot be compiled in time never reaches the engine, and its process is killed."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from ochatctl.engine.grammar import GrammarCheck
from ochatctl.errors import DataError
from ochatctl.extras import has

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not has("xgrammar"), reason="xgrammar, which comes with vLLM, is not installed"),
    pytest.mark.skipif("OCHATCTL_TEST_MODEL" not in os.environ, reason="OCHATCTL_TEST_MODEL names no model folder"),
]
SOUND: Any = {"type": "object", "properties": {"a": {"type": "integer"}}}
ENDLESS: Any = {"type": "string", "pattern": "(a|b|c|d){1,5000}(x{1,3000}y{1,3000}){1,400}"}


def test_sound_schemas_pass_and_bad_and_endless_ones_are_refused() -> None:
    async def run() -> None:
        grammars = GrammarCheck(Path(os.environ["OCHATCTL_TEST_MODEL"]), timeout_seconds=2.0)
        try:
            await grammars.start()
            await grammars.get_ready(49_152)
            async with asyncio.timeout(2):  # the child has loaded: what is left is the compiling
                await grammars.check(json.dumps(SOUND))
            with pytest.raises(DataError, match="poem"):
                await grammars.check('{"type": "poem"}')
            # Known ones need no process, and so none has to start again after the endless one.
            with pytest.raises(DataError, match="longer than 2 seconds"):
                await grammars.check(json.dumps(ENDLESS))
            async with asyncio.timeout(0.1):
                await grammars.check(json.dumps(SOUND))
                with pytest.raises(DataError, match="poem"):
                    await grammars.check('{"type": "poem"}')
            # A new one waits for a new process, and is compiled.
            await grammars.check(json.dumps(SOUND | {"title": "another"}))
        finally:
            await grammars.close()

    asyncio.run(run())
