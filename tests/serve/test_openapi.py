"""The document tells the truth: of every address, every answer and every fault, streams included."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving_for_tests import byte_tokenizer, serving

from ochatctl.chat.families import get_family
from ochatctl.engine.echo import EchoEngine
from ochatctl.serve.app import create_app
from ochatctl.serve.config import AppConfig, LimitConfig
from ochatctl.serve.openapi import document

FAMILY = get_family("openchat_v3.2")


def test_every_address_is_told_and_every_told_address_is_there() -> None:
    tokenizer = byte_tokenizer(FAMILY)
    app = create_app(EchoEngine(tokenizer), FAMILY, tokenizer, AppConfig(model_names=("m",)))
    served = {
        (route.path.replace("{name:path}", "{model}"), method.lower())  # type: ignore[attr-defined]
        for route in app.routes
        if route.include_in_schema  # type: ignore[attr-defined] # all but the files of the chat page
        for method in getattr(route, "methods", None) or {"GET"}
        if method != "HEAD"
    }
    told = {
        (path, method)
        for path, methods in document(("m",), needs_key=False, limits=LimitConfig())["paths"].items()
        for method in methods
    }
    assert told == served


def test_every_reference_leads_somewhere_and_keys_are_told_only_where_there_are_any() -> None:
    def references(node: Any) -> set[str]:
        if isinstance(node, list):
            return {each for part in node for each in references(part)}
        if not isinstance(node, dict):
            return set()
        own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
        return own | {each for part in node.values() for each in references(part)}

    whole = document(("m", "n"), needs_key=True, limits=LimitConfig(), root_path="/llm")
    found = references(whole)
    assert len(found) > 15
    assert {name.rsplit("/", 1)[1] for name in found} <= set(whole["components"]["schemas"])
    assert whole["servers"] == [{"url": "/llm"}]
    open_paths = {path for path, methods in whole["paths"].items() if "security" not in next(iter(methods.values()))}
    assert open_paths == {"/", "/health", "/ready"}
    assert "security" not in str(document(("m",), needs_key=False, limits=LimitConfig()))


def test_the_server_gives_its_document() -> None:
    with serving() as served:
        told = httpx.get(f"{served.base_url}/openapi.json").json()
    assert told["openapi"].startswith("3.1")
    assert "echo" in told["components"]["schemas"]["CompletionRequest"]["properties"]["model"]["enum"]


@pytest.mark.slow
@pytest.mark.parametrize("keys", [(), ("sk-1",)], ids=["open", "keys"])
def test_schemathesis_finds_no_answer_that_breaks_the_document(keys: tuple[str, ...], tmp_path: Path) -> None:
    pytest.importorskip("schemathesis")
    command = shutil.which("schemathesis", path=str(Path(sys.executable).parent)) or shutil.which("schemathesis")
    assert command
    with serving(api_keys=keys) as served:
        headers = [word for key in keys for word in ("--header", f"Authorization: Bearer {key}")]
        # Left out is only `positive_data_acceptance`: some rules stand between parameters (`top_logprobs` needs
        # `logprobs`, the prompt must fit the context), which a schema does not say.
        done = subprocess.run(
            [
                command, "run", f"{served.base_url}/openapi.json", *headers, "--mode", "all", "--phases",
                "examples,coverage,fuzzing,stateful", "--max-examples", "4" if keys else "15", "--checks", "all",
                "--exclude-checks", "positive_data_acceptance", "--seed", "1", "--request-timeout", "20", "--no-color",
            ],
            cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-6_000:] + done.stderr[-2_000:]
        assert "Tested: 11" in done.stdout, done.stdout[-2_000:]
        assert served.engine.num_running == 0
