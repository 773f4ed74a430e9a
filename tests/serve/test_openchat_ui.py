"""OpenChat-UI's own two calls, with its bodies and headers, read as its server reads them.

Source: imoneoi/openchat-ui, `pages/api/models.ts` and `utils/server/index.ts`; `OPENAI_API_HOST=http://localhost:18888`.
"""

import json

import httpx
import pytest
from serving_for_tests import byte_tokenizer, serving

from ochatctl.chat.families import get_family
from ochatctl.engine.echo import EchoEngine

# The models that its menu knows, by the ids that it looks for.
KNOWN = {"openchat_v3.2_mistral", "openchat_3.6"}
KEY = "sk-its-own"
HEADERS = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
SYSTEM = (
    "You are ChatGPT, a large language model trained by OpenAI. Follow the user's instructions carefully. "
    "Respond using markdown."
)


def read_stream(chunks: list[bytes]) -> str:
    """Read as its server does: each piece of the network decoded by itself, and closed at the first finish reason."""
    out: list[str] = []
    buffer = ""
    for chunk in chunks:
        buffer += chunk.decode(errors="replace")
        *events, buffer = buffer.split("\n\n")
        for event in events:
            if not event.startswith("data: "):
                continue  # a comment
            told = json.loads(event.removeprefix("data: "))
            if told["choices"][0]["finish_reason"] is not None:
                return "".join(out)
            out.append(told["choices"][0]["delta"]["content"])
    raise AssertionError("it ended without a finish reason")


@pytest.mark.parametrize("family", sorted(KNOWN))
def test_its_menu_finds_the_model_and_its_chat_is_streamed(family: str) -> None:
    reply = "Gern, hier: `x` 🌍"
    seen: list[str] = []
    tokenizer = byte_tokenizer(get_family(family))

    def answer(prompt: object) -> list[int]:
        seen.append(tokenizer.decode(prompt))  # type: ignore[arg-type]
        return tokenizer.encode_text(reply)

    with serving(family, engine=EchoEngine(tokenizer, reply=answer), api_keys=(KEY,)) as served:
        listed = httpx.get(f"{served.base_url}/v1/models", headers=HEADERS).json()
        found = [model["id"] for model in listed["data"] if model["id"] in KNOWN]
        assert found == [family]
        body = {
            "model": family,
            "messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "Hallo"}],
            "max_tokens": 1000,
            "temperature": 1,
            "stream": True,
        }
        url = f"{served.base_url}/v1/chat/completions"
        with httpx.stream("POST", url, json=body, headers=HEADERS) as answered:
            assert answered.status_code == 200
            assert read_stream(list(answered.iter_raw())) == reply
        assert SYSTEM in seen[0]
        # What it shows of a fault is the envelope's four fields.
        refused = httpx.post(url, json=body | {"temperature": 3}, headers=HEADERS).json()
        assert set(refused["error"]) == {"message", "type", "param", "code"}
