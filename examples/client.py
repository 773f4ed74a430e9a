"""Ask a running server one question and print the answer as it comes, with the standard library alone.

ochatctl serve --model DIR --api-keys sk-mine
OCHATCTL_API_KEY=sk-mine python examples/client.py "What is a loss weight?"
"""

import argparse
import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException, HTTPResponse
from typing import Any


class ServerError(Exception):
    """The server refused, or an answer broke off."""


def stream_answer(base_url: str, key: str, model: str, messages: list[dict[str, str]]) -> Iterator[str]:
    """Give the pieces of an answer.

    Raises:
        ServerError: refused, broken off or unreachable.
        OSError, HTTPException: the connection was lost.
    """
    body = {"model": model, "messages": messages, "stream": True}
    ended = False
    with _open(f"{base_url}/chat/completions", key, body) as response:
        for line in response:
            data = line.decode("utf-8").strip().removeprefix("data: ")
            if data == "[DONE]":
                ended = True
            elif data:
                chunk = json.loads(data)
                if "error" in chunk:
                    raise ServerError(chunk["error"]["message"])
                yield chunk["choices"][0]["delta"].get("content") or ""
    if not ended:
        raise ServerError("the answer broke off")


def first_model(base_url: str, key: str) -> str:
    """Give the first model that the server has."""
    with _open(f"{base_url}/models", key) as response:
        return str(json.load(response)["data"][0]["id"])


def _open(url: str, key: str, body: dict[str, Any] | None = None) -> HTTPResponse:
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    data = None if body is None else json.dumps(body).encode("utf-8")
    request = urllib.request.Request(url, data=data, headers=headers)
    try:
        response: HTTPResponse = urllib.request.urlopen(request, timeout=600)
    except urllib.error.HTTPError as error:
        with error:
            raise ServerError(f"{error.code}: {_message(error.read())}") from error
    except OSError as error:
        raise ServerError(f"{url}: {error}") from error
    return response


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, LookupError, TypeError):  # not from this server, but from a proxy before it
        return body[:200].decode("utf-8", errors="replace")


def main() -> None:
    parser = argparse.ArgumentParser(description="Ask a running server one question.")
    parser.add_argument("question")
    parser.add_argument("--base-url", default=os.environ.get("OCHATCTL_BASE_URL", "http://localhost:18888/v1"))
    parser.add_argument("--api-key", default=os.environ.get("OCHATCTL_API_KEY", ""), help="default: $OCHATCTL_API_KEY")
    parser.add_argument("--model-name", help="default: the first one that the server has")
    parser.add_argument("--system", help="a system message")
    options = parser.parse_args()
    system = [{"role": "system", "content": options.system}] if options.system else []
    messages = [*system, {"role": "user", "content": options.question}]
    base_url = options.base_url.rstrip("/")
    try:
        model = options.model_name or first_model(base_url, options.api_key)
        for piece in stream_answer(base_url, options.api_key, model, messages):
            print(piece, end="", flush=True)
        print()
    except (ServerError, OSError, HTTPException) as error:
        sys.exit(f"\nerror: {error}")


if __name__ == "__main__":
    main()
