"""One HTTP address that answers in JSON: what is sent there, how long it is waited for, and what its refusals mean."""

import asyncio
import json
import random
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import httpx

from ochatctl.engine.client import Note, Warnings
from ochatctl.engine.prompt import PromptTooLong
from ochatctl.errors import ConfigError, RemoteError

_RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_BUSY = frozenset({429, 503, 529})
# Out of money is a 429 as well, and waiting does not mend it.
_FINAL_CODES = frozenset({"insufficient_quota", "billing_hard_limit_reached"})
_SHOWN_CHARS = 500


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """How long an endpoint is waited for, and how often it is asked again.

    `silence_seconds` is the longest time without a byte: an answer that is not streamed comes all at once, at its end.
    """

    max_retries: int = 3
    connect_seconds: float = 10.0
    # A long prompt on a CPU may take minutes before its first token.
    silence_seconds: float = 600.0
    # The wait between two tries doubles, up to the longest; an endpoint that asks for more is not waited for.
    first_wait_seconds: float = 0.5
    longest_wait_seconds: float = 30.0
    # Whether silence is worth another try: not where somebody sits and waits.
    retry_silence: bool = False


class Refusal(RemoteError):
    """An endpoint that answers, and will not do what was asked: its status, and the parameter that it names."""

    def __init__(self, message: str, *, hint: str = "", status: int = 0, param: str = "", code: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.param = param
        self.code = code


class Endpoint:
    """The address of an API and its key, which goes to this host only: no redirect is followed.

    A request is sent again, a bounded number of times and after a growing wait, where the endpoint is busy, failed or
    cannot be reached; a stream only before its first event. `on_busy` hears when it is busy, and for how long.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None,
        *,
        patience: Patience,
        on_busy: Callable[[float], None],
        note: Note | None,
    ) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"`{base_url}` is not an HTTP address", hint="such as `http://localhost:18888/v1`")
        self.base_url = base_url.rstrip("/")
        self._patience = patience
        self._on_busy = on_busy
        self._warnings = Warnings(note)
        self._has_key = bool(api_key)
        # Checked here, for an HTTP library's own complaint would show the key.
        if api_key and not (api_key.isascii() and api_key.isprintable()):
            raise ConfigError("the API key holds a character that no HTTP header can carry")
        self._http = httpx.AsyncClient(
            headers={"authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(patience.silence_seconds, connect=patience.connect_seconds, pool=None),
            follow_redirects=False,
            # To plain HTTP there is nothing to verify, and reading the certificates takes 50 ms.
            verify=parts.scheme == "https",
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=256),
        )

    async def table(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Give the table that a request is answered with; one that breaks off in the middle is asked for once more.

        Raises:
            PromptTooLong: it says that the conversation does not fit.
            Refusal: it answers, and refuses.
            RemoteError: it fails, or sends what is not JSON.
        """
        for is_last in (False, True):
            response = await self._send(method, path, body)
            async with aclosing(response):
                try:
                    return read_table(await response.aread())
                except httpx.HTTPError as error:
                    silent = isinstance(error, httpx.TimeoutException) and not self._patience.retry_silence
                    if is_last or silent or not self._patience.max_retries:
                        reason = str(error) or type(error).__name__
                        raise RemoteError(f"`{self.base_url}` broke off in mid-answer: {reason}") from error
        raise AssertionError("the last try returns or raises")

    async def events(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[str, None]:
        """Give the data of each server-sent event that a request is answered with; raises what `table` does."""
        response = await self._send("POST", path, body)
        async with aclosing(response):
            try:
                async for line in response.aiter_lines():
                    if line.startswith("data:"):
                        yield line[len("data:") :].strip()
            except httpx.HTTPError as error:
                raise RemoteError(f"`{self.base_url}` broke off in mid-answer: {error}") from error

    async def close(self) -> None:
        await self._http.aclose()

    async def _send(self, method: str, path: str, body: Mapping[str, Any] | None) -> httpx.Response:
        """Give a response whose status is 2xx; its body is still to be read."""
        wait_seconds = self._patience.first_wait_seconds
        longest_seconds = self._patience.longest_wait_seconds
        for tries_left in range(self._patience.max_retries, -1, -1):
            request = self._http.build_request(method, self.base_url + path, json=body)
            told_seconds = 0.0
            try:
                response = await self._http.send(request, stream=True)
                if not response.is_success:
                    async with aclosing(response):
                        await response.aread()
            except httpx.TransportError as error:
                silent = isinstance(error, httpx.ReadTimeout) and not self._patience.retry_silence
                if not tries_left or silent:
                    raise self._unreachable(error) from error
            else:
                if response.is_success:
                    self._warnings.say(shorten(response.headers.get("x-ochatctl-warning", "")))
                    return response
                told_seconds = _retry_after_seconds(response)
                refusal = self._refused(response)
                if response.status_code in _BUSY:
                    self._on_busy(told_seconds)
                final = isinstance(refusal, Refusal) and refusal.code in _FINAL_CODES
                if response.status_code not in _RETRIED or final or not tries_left or told_seconds > longest_seconds:
                    raise refusal
            # Spread, so that many requests that were refused together do not come back together; never sooner than
            # the endpoint said.
            await asyncio.sleep(told_seconds + min(wait_seconds, longest_seconds) * random.uniform(0.5, 1.0))
            wait_seconds *= 2
        raise AssertionError("the last try returns or raises")

    def _unreachable(self, error: httpx.TransportError) -> RemoteError:
        if isinstance(error, httpx.ConnectError):
            return RemoteError(
                f"nothing answers at `{self.base_url}`: {error}", hint="`ochatctl serve --model DIR` starts a server"
            )
        reason = str(error) or type(error).__name__
        return RemoteError(f"`{self.base_url}` failed: {reason}", hint="try again, or look at the server's log")

    def _refused(self, response: httpx.Response) -> RemoteError | PromptTooLong:
        status = response.status_code
        table = read_table(response.content, strict=False)
        said = said_error(table) or shorten(response.content.decode(errors="replace"))
        error = table.get("error")
        code = error.get("code") if isinstance(error, dict) else None
        if status == 400 and (code == "context_length_exceeded" or "maximum context length" in said):
            return PromptTooLong(said, hint="shorten the conversation, or start a new one")
        hint = ""
        if status == 401:
            # Why a key is refused the endpoint says itself; that there was none, not always.
            hint = "add `--api-key KEY`, or set `OCHATCTL_API_KEY`"
            if self._has_key:
                said = said or "the key that was given is refused"
                hint = "give another key, by `--api-key KEY` or `OCHATCTL_API_KEY`"
            else:
                said = f"no key was given: {said}"
        elif status == 404 and code != "model_not_found":
            hint = "an address usually ends in `/v1`"
        elif code == "model_not_found":
            hint = "leave `--model-name` out, or give a name that the endpoint lists"
        elif response.is_redirect:
            said, hint = (
                "it redirects, which is not followed, so that a key stays with its host",
                "give the new address",
            )
        elif status in _RETRIED:
            hint = "try again later"
        param = error.get("param") if isinstance(error, dict) else None
        return Refusal(
            f"`{self.base_url}` answered {status}: {said}",
            hint=hint,
            status=status,
            param=str(param or ""),
            code=str(code or ""),
        )


def read_table(content: bytes | str, *, strict: bool = True) -> dict[str, Any]:
    """Read a JSON object; an empty one where it is another value, or where it is not JSON and `strict` is off.

    Raises:
        RemoteError: it is not JSON, and `strict` is on.
    """
    try:
        value = json.loads(content)
    except ValueError as error:
        if strict:
            raise RemoteError(f"the endpoint sent what is not JSON: {shorten(str(content))}") from error
        value = None
    return value if isinstance(value, dict) else {}


def said_error(table: Mapping[str, Any]) -> str:
    """Give the message of an error, in OpenAI's shape or as a text of its own; empty where there is none."""
    error = table.get("error")
    message = error.get("message") if isinstance(error, dict) else error
    return shorten(str(message)) if message else ""


def shorten(text: str) -> str:
    """Give a foreign text on one line, and no more of it than anybody reads."""
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "..."


def _retry_after_seconds(response: httpx.Response) -> float:
    """Read what an endpoint says how long to wait: seconds, or a date."""
    said = response.headers.get("retry-after", "")
    try:
        return max(0.0, float(said))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(said).timestamp() - time.time())
    except ValueError:
        return 0.0  # neither; our own growing wait does
