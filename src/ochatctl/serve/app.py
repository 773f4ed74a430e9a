"""The application: routes, and what happens to a request from its first byte to its last.

in: an engine that has been started, out: an ASGI application. A stream's first token comes before its headers, so
that whatever is wrong by then is told with a true status.
"""

import asyncio
import secrets
import time
import traceback
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ochatctl import __version__
from ochatctl.chat.families import Family
from ochatctl.chat.tokenizer import Tokenizer
from ochatctl.engine.base import Delta, Engine
from ochatctl.engine.prompt import stop_token_ids
from ochatctl.errors import OchatError
from ochatctl.serve import metrics as metrics_module
from ochatctl.serve import sse
from ochatctl.serve.auth import KeyAuth
from ochatctl.serve.choices import draw
from ochatctl.serve.config import AppConfig
from ochatctl.serve.errors import as_request_error, error_response
from ochatctl.serve.keys import KeyRing
from ochatctl.serve.limits import ClientGone, read_json_body
from ochatctl.serve.logprobs import LogprobWriter
from ochatctl.serve.logs import RequestLog, RequestLogging, RequestRecord, record_of
from ochatctl.serve.metrics import Metrics
from ochatctl.serve.pages import front_page
from ochatctl.serve.prompt import Prepared, Preparer
from ochatctl.serve.protocol import (
    AnswerMessage,
    ChatCompletion,
    ChatCompletionRequest,
    Choice,
    Logprobs,
    ModelCard,
    ModelList,
    RequestError,
    Usage,
    decode_chat_request,
    encode,
)
from ochatctl.serve.sse import StreamHead

FINGERPRINT = f"ochatctl-{__version__}"
_STREAM_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # nginx would gather the events of a stream.
    (b"x-accel-buffering", b"no"),
)


def create_app(engine: Engine, family: Family, tokenizer: Tokenizer, config: AppConfig) -> Starlette:
    """Give the application that serves one model. The engine is started and closed by the caller."""
    if not config.stop_token_ids:
        config = replace(config, stop_token_ids=stop_token_ids(family, tokenizer))
    metrics = Metrics()
    keys = KeyRing(config.api_keys, config.api_keys_file)
    log = RequestLog(config.log)
    chat = ChatCompletions(
        engine=engine,
        preparer=Preparer(engine=engine, family=family, tokenizer=tokenizer, config=config),
        to_logprobs=LogprobWriter(tokenizer, config.stop_token_ids),
        config=config,
    )
    info = Information(engine=engine, family=family, metrics=metrics, config=config)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(log.close)

    middleware = [Middleware(RequestLogging, log=log, metrics=metrics)]
    if config.cors.origins:
        cors = config.cors
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=cors.origins,
                allow_methods=cors.methods,
                allow_headers=cors.headers,
                allow_credentials=cors.credentials,
            )
        )
    middleware.append(Middleware(KeyAuth, keys=keys))
    app = Starlette(
        routes=[
            Route("/", info.front),
            Route("/health", info.health),
            Route("/ready", info.ready),
            Route("/version", info.version),
            Route("/metrics", info.metrics_text),
            Route("/v1/models", info.models),
            Route("/v1/models/{name:path}", info.model),
            Route("/v1/chat/completions", chat, methods=["POST"]),
        ],
        middleware=middleware,
        exception_handlers={RequestError: _render, HTTPException: _render, OchatError: _render, Exception: _render},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.keys = keys
    return app


@dataclass(frozen=True, kw_only=True, slots=True)
class Information:
    """The endpoints that tell about the server."""

    engine: Engine
    family: Family
    metrics: Metrics
    config: AppConfig
    created: int = int(time.time())

    async def front(self, request: Request) -> Response:
        return Response(
            front_page(self.config.base_url, self.config.model_names[0], needs_key=self.config.needs_key),
            media_type="text/html",
            headers={"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"},
        )

    async def health(self, request: Request) -> Response:
        return self._alive("ok")

    async def ready(self, request: Request) -> Response:
        return self._alive("ready")

    async def version(self, request: Request) -> Response:
        return _json({"version": __version__, "engine": self.engine.name, "family": self.family.name})

    async def metrics_text(self, request: Request) -> Response:
        return Response(self.metrics.render(), headers={"Content-Type": metrics_module.CONTENT_TYPE})

    async def models(self, request: Request) -> Response:
        return _json(ModelList(data=[self._card(name) for name in self.config.model_names]))

    async def model(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self.config.model_names:
            raise RequestError(404, "there is no model of this name", param="model", code="model_not_found")
        return _json(self._card(name))

    def _alive(self, status: str) -> Response:
        self.engine.check_alive()
        return _json({"status": status})

    def _card(self, name: str) -> ModelCard:
        return ModelCard(
            id=name,
            created=self.created,
            root=self.config.model_names[0],
            max_model_len=self.engine.context_tokens,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatCompletions:
    """`/v1/chat/completions`, as a bare ASGI application."""

    engine: Engine
    preparer: Preparer
    to_logprobs: LogprobWriter
    config: AppConfig

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        record = record_of(scope)
        try:
            body = await read_json_body(
                scope,
                receive,
                max_bytes=self.config.max_body_bytes,
                timeout_seconds=self.config.body_timeout_seconds,
            )
            finished = await _until_disconnect(receive, self._answer(decode_chat_request(body), record, scope, send))
        except ClientGone:
            finished = False
        record.aborted = not finished

    async def _answer(self, request: ChatCompletionRequest, record: RequestRecord, scope: Scope, send: Send) -> None:
        record.stream = bool(request.stream)
        self.engine.check_alive()
        prepared = await self.preparer.prepare(request)
        record.num_prompt_tokens = len(prepared.prompt_ids)
        record.warning = prepared.warning
        drawing = draw(self.engine, prepared.prompt_ids, prepared.specs)
        async with aclosing(drawing) as drawn, aclosing(_noted(drawn, record)) as deltas:
            if request.stream:
                await self._stream(request, prepared, deltas, record, send)
            else:
                await self._whole(request, prepared, deltas, record, send)

    async def _whole(
        self,
        request: ChatCompletionRequest,
        prepared: Prepared,
        deltas: AsyncIterator[tuple[int, Delta]],
        record: RequestRecord,
        send: Send,
    ) -> None:
        choices = [
            Choice(
                index=index,
                message=AnswerMessage(content=""),
                finish_reason=None,
                logprobs=Logprobs(content=[]) if request.logprobs else None,
            )
            for index in range(len(prepared.specs))
        ]
        texts: list[list[str]] = [[] for _ in choices]
        async for index, delta in deltas:
            choice = choices[index]
            texts[index].append(delta.text)
            choice.finish_reason = delta.finish_reason
            if choice.logprobs is not None:
                choice.logprobs.content += self.to_logprobs(delta).content
        for choice, text in zip(choices, texts, strict=True):
            choice.message.content = "".join(text)
        num_prompt, num_answer = record.num_prompt_tokens, record.num_answer_tokens
        answer = ChatCompletion(
            id=_new_id(),
            created=int(time.time()),
            model=request.model,
            choices=choices,
            usage=Usage(prompt_tokens=num_prompt, completion_tokens=num_answer, total_tokens=num_prompt + num_answer),
            system_fingerprint=FINGERPRINT,
        )
        content = encode(answer)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers + _warning(prepared)})
        await send({"type": "http.response.body", "body": content})

    async def _stream(
        self,
        request: ChatCompletionRequest,
        prepared: Prepared,
        deltas: AsyncIterator[tuple[int, Delta]],
        record: RequestRecord,
        send: Send,
    ) -> None:
        head = StreamHead(
            id=_new_id(),
            created=int(time.time()),
            model=request.model,
            fingerprint=FINGERPRINT,
            num_choices=len(prepared.specs),
            num_prompt_tokens=len(prepared.prompt_ids),
            include_usage=request.stream_options is not None and request.stream_options.include_usage,
        )
        async with aclosing(sse.events(deltas, head, self.to_logprobs if request.logprobs else None)) as events:
            event = await anext(events)
            await send({
                "type": "http.response.start", "status": 200, "headers": [*_STREAM_HEADERS, *_warning(prepared)],
            })  # fmt: skip
            try:
                await _send_event(send, event)
                async for event in events:
                    await _send_event(send, event)
            except Exception as error:  # noqa: BLE001 - the edge: the headers are out, only an event can still be sent
                told = as_request_error(error)
                record.error = told.code or ""
                if told.status == 500:
                    traceback.print_exception(error)
                await _send_event(send, sse.error_event(told))
            await send({"type": "http.response.body", "body": b""})


async def _send_event(send: Send, event: bytes) -> None:
    await send({"type": "http.response.body", "body": event, "more_body": True})


async def _until_disconnect(receive: Receive, work: Coroutine[Any, Any, None]) -> bool:
    """Do the work; cancel it where the client goes away first. Tell whether it was done."""
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            return False
        await working
        return True
    finally:
        watching.cancel()
        if not working.done():
            working.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _noted(
    deltas: AsyncIterator[tuple[int, Delta]], record: RequestRecord
) -> AsyncGenerator[tuple[int, Delta], None]:
    """Pass deltas on, and note in the record what went by."""
    async for index, delta in deltas:
        if record.first_token_seconds is None:
            record.first_token()
        record.num_answer_tokens += len(delta.token_ids)
        if delta.finish_reason is not None:
            record.finish_reasons.append(delta.finish_reason)
        yield index, delta


async def _render(request: Request, error: Exception) -> Response:
    """Say any fault in OpenAI's envelope: the only place where a status other than 200 is made, but for 401."""
    told = as_request_error(error)
    record = record_of(request.scope)
    record.error = told.code or ""
    response = error_response(told)
    if told.status == 500:
        response.headers["X-Request-ID"] = record.request_id  # this one goes out past the logging
    return response


def _warning(prepared: Prepared) -> list[tuple[bytes, bytes]]:
    if not prepared.warning:
        return []
    return [(b"x-ochatctl-warning", prepared.warning.encode("ascii", errors="backslashreplace"))]


def _json(value: object) -> Response:
    return Response(encode(value), media_type="application/json")


def _new_id() -> str:
    return "chatcmpl-" + secrets.token_hex(12)
