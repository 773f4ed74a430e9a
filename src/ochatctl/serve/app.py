"""The application: routes, and what happens to a request from its first byte to its last.

in: an engine that has been started, out: an ASGI application. A stream's first token comes before its headers, so
that whatever is wrong by then is told with a true status.
"""

import asyncio
import time
import traceback
from collections.abc import AsyncIterator, Coroutine
from contextlib import ExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Generic

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ochatctl import __version__
from ochatctl.chat.families import Family
from ochatctl.chat.tokenizer import Tokenizer
from ochatctl.engine.base import Engine
from ochatctl.engine.prompt import stop_token_ids
from ochatctl.errors import OchatError
from ochatctl.serve import metrics as metrics_module
from ochatctl.serve import sse
from ochatctl.serve.admission import Admission
from ochatctl.serve.auth import PUBLIC_PATHS, KeyAuth
from ochatctl.serve.choices import draw
from ochatctl.serve.completions import CompletionForm
from ochatctl.serve.config import AppConfig
from ochatctl.serve.errors import as_request_error, error_response
from ochatctl.serve.event_writer import EventWriter, Pace
from ochatctl.serve.forms import AskT, ChatForm, Form, Gathered
from ochatctl.serve.gate import Gate
from ochatctl.serve.keys import KeyRing
from ochatctl.serve.limits import ClientGone, read_json_body
from ochatctl.serve.logprobs import TokenSpeller
from ochatctl.serve.logs import RequestLog, RequestLogging, write_refused
from ochatctl.serve.metrics import Metrics
from ochatctl.serve.openapi import document
from ochatctl.serve.pages import front_page
from ochatctl.serve.prompt import Prepared, Preparer
from ochatctl.serve.protocol import ModelCard, ModelList, RequestError, Status, Usage, Version, encode
from ochatctl.serve.queue import QueuedEngine
from ochatctl.serve.quota import Quota
from ochatctl.serve.record import RequestRecord, record_of
from ochatctl.serve.root_path import RootPath
from ochatctl.serve.tokenize import Tokenizing
from ochatctl.serve.web_page import INDEX, WebFile, read_page

_STREAM_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # nginx would gather the events of a stream.
    (b"x-accel-buffering", b"no"),
)
# What a page of another origin may read beside the body; without a word, browsers keep it from them.
_TOLD_HEADERS = ("x-request-id", "retry-after", "x-ochatctl-warning")


def create_app(engine: Engine, family: Family, tokenizer: Tokenizer, config: AppConfig) -> Starlette:
    """Give the application that serves one model. The engine is started and closed by the caller."""
    if not config.stop_token_ids:
        config = replace(config, stop_token_ids=stop_token_ids(family, tokenizer))
    metrics = Metrics()
    keys = KeyRing(config.api_keys, config.api_keys_file)
    log = RequestLog(config.log)
    gate = Gate()
    engine = queued = QueuedEngine(engine, config.limits)
    metrics.watch(queued, log)
    preparer = Preparer(engine=engine, family=family, tokenizer=tokenizer, config=config)
    spell = TokenSpeller(tokenizer, config.stop_token_ids)
    pace = Pace()
    chats = Answering(engine=engine, form=ChatForm(preparer=preparer, spell=spell), pace=pace, config=config)
    completions = Answering(
        engine=engine, form=CompletionForm(preparer=preparer, spell=spell), pace=pace, config=config
    )
    tokenizing = Tokenizing(preparer=preparer, config=config)
    page = read_page() if config.web else {}
    prefix = config.root_path.rstrip("/")
    info = Information(engine=engine, family=family, metrics=metrics, page=page.get(INDEX), config=config)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(log.close)

    middleware = [Middleware(RootPath, prefix=config.root_path)] if config.root_path else []
    middleware.append(Middleware(RequestLogging, log=log, metrics=metrics))
    if config.cors.origins:
        cors = config.cors
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=cors.origins,
                allow_methods=cors.methods,
                allow_headers=cors.headers,
                allow_credentials=cors.credentials,
                expose_headers=_TOLD_HEADERS,
            )
        )
    auth = KeyAuth(keys=keys, public_paths=PUBLIC_PATHS | set(page) | {prefix or INDEX})
    middleware.append(Middleware(Admission, gate=gate, auth=auth, quota=Quota(limits=config.limits)))
    app = Starlette(
        routes=[
            # They are tried in this order.
            Route("/v1/chat/completions", chats, methods=["POST"]),
            Route("/v1/completions", completions, methods=["POST"]),
            Route(INDEX, info.front),
            Route("/health", info.health),
            Route("/ready", info.ready),
            Route("/version", info.version),
            Route("/metrics", info.metrics_text),
            Route("/openapi.json", info.openapi),
            Route("/v1/models", info.models),
            Route("/v1/models/{name:path}", info.model),
            Route("/tokenize", tokenizing.tokenize, methods=["POST"]),
            Route("/detokenize", tokenizing.detokenize, methods=["POST"]),
            *(Route(path, file.answer, include_in_schema=False) for path, file in page.items() if path != INDEX),
            *([Route(prefix, info.slash, include_in_schema=False)] if prefix else []),
        ],
        middleware=middleware,
        exception_handlers={
            ClientGone: _gone,
            RequestError: _render,
            HTTPException: _render,
            OchatError: _render,
            Exception: _render,
        },
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.outside = Outside(engine=queued, keys=keys, gate=gate, log=log, metrics=metrics)
    return app


@dataclass(frozen=True, kw_only=True, slots=True)
class Outside:
    """What the process that runs the application has to do with; `app.state.outside`."""

    engine: QueuedEngine
    keys: KeyRing
    gate: Gate
    log: RequestLog
    metrics: Metrics

    def refused(self, client: str, error: RequestError) -> None:
        """Log and count what was refused before it became a request."""
        write_refused(self.log, self.metrics, client, error)


@dataclass(frozen=True, kw_only=True, slots=True)
class Information:
    """The endpoints that tell about the server."""

    engine: Engine
    family: Family
    metrics: Metrics
    # None: it is turned off, or was never built.
    page: WebFile | None
    config: AppConfig
    created: int = int(time.time())

    async def front(self, request: Request) -> Response:
        if self.page is not None:
            return await self.page.answer(request)
        return Response(
            front_page(self.config.base_url, self.config.model_names[0], needs_key=self.config.needs_key),
            media_type="text/html",
            headers={"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"},
        )

    async def slash(self, request: Request) -> Response:
        return RedirectResponse(self.config.root_path.rstrip("/") + "/")

    async def health(self, request: Request) -> Response:
        return self._alive("ok")

    async def ready(self, request: Request) -> Response:
        return self._alive("ready")

    async def version(self, request: Request) -> Response:
        return _json(Version(version=__version__, engine=self.engine.name, family=self.family.name))

    async def metrics_text(self, request: Request) -> Response:
        return Response(self.metrics.render(), headers={"Content-Type": metrics_module.CONTENT_TYPE})

    async def openapi(self, request: Request) -> Response:
        needs_key = self.config.needs_key
        limits, root_path = self.config.limits, self.config.root_path
        return _json(document(self.config.model_names, needs_key=needs_key, limits=limits, root_path=root_path))

    async def models(self, request: Request) -> Response:
        return _json(ModelList(data=[self._card(name) for name in self.config.model_names]))

    async def model(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self.config.model_names:
            raise RequestError(404, "there is no model of this name", param="model", code="model_not_found")
        return _json(self._card(name))

    def _alive(self, status: str) -> Response:
        self.engine.check_alive()
        return _json(Status(status=status))

    def _card(self, name: str) -> ModelCard:
        template = self.family.template
        return ModelCard(
            id=name,
            created=self.created,
            root=name if name in self.config.adapters else self.config.model_names[0],
            parent=self.config.model_names[0] if name in self.config.adapters else None,
            max_model_len=self.engine.context_tokens,
            family=self.family.name,
            default_condition=template.inference_condition if template.takes_condition else None,
            conditions=list(template.conditions or self.config.trained_conditions),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Answering(Generic[AskT]):
    """An endpoint that draws answers, as a bare ASGI application."""

    engine: Engine
    form: Form[AskT]
    pace: Pace
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
            finished = await _until_disconnect(receive, self._answer(self.form.decode(body), record, scope, send))
        except ClientGone:
            finished = False
        record.aborted = not finished

    async def _answer(self, request: AskT, record: RequestRecord, scope: Scope, send: Send) -> None:
        record.stream = bool(request.stream)
        record.request = request
        self.engine.check_alive()
        prepared = await self.form.prepare(request)
        record.note_prompt(prepared.num_prompt_tokens)
        record.warning = prepared.warning
        if request.stream:
            await self._stream(request, prepared, record, send)
        else:
            await self._whole(request, prepared, record, send)

    async def _whole(
        self,
        request: AskT,
        prepared: Prepared,
        record: RequestRecord,
        send: Send,
    ) -> None:
        choices = [Gathered() for _ in prepared.draws]
        keeps_deltas = self.form.wants_logprobs(request)
        async with aclosing(draw(self.engine, prepared.draws)) as deltas:
            async for index, delta in deltas:
                record.note(index, delta)
                choice = choices[index]
                choice.texts.append(delta.text)
                choice.finish_reason = delta.finish_reason
                if keeps_deltas:
                    choice.deltas.append(delta)
        num_prompt, num_answer = record.num_prompt_tokens, record.num_answer_tokens
        usage = Usage(prompt_tokens=num_prompt, completion_tokens=num_answer, total_tokens=num_prompt + num_answer)
        answer = self.form.whole(request, prepared, choices, usage)
        content = encode(answer)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers + _warning(prepared)})
        await send({"type": "http.response.body", "body": content})

    async def _stream(
        self,
        request: AskT,
        prepared: Prepared,
        record: RequestRecord,
        send: Send,
    ) -> None:
        events = sse.Events(*self.form.chunks(request, prepared))
        writer: EventWriter | None = None
        with ExitStack() as stack:
            try:
                async with aclosing(draw(self.engine, prepared.draws)) as deltas:
                    async for index, delta in deltas:
                        record.note(index, delta)
                        if writer is None:
                            headers = [*_STREAM_HEADERS, *_warning(prepared)]
                            await send({"type": "http.response.start", "status": 200, "headers": headers})
                            writer = EventWriter(
                                send, self.pace, keep_alive_seconds=self.config.limits.keep_alive_seconds
                            )
                            stack.callback(writer.stop)
                        await writer.write(events.of(index, delta))
                last = events.end()
            except Exception as error:
                if writer is None:
                    raise
                # The edge: the headers are out, and only an event can still be sent.
                told = as_request_error(error)
                record.error = told.code or ""
                if told.status == 500:
                    traceback.print_exception(error)
                last = sse.error_event(told)
            assert writer is not None, "an answer has at least one delta"
            await writer.end(last)


async def _until_disconnect(receive: Receive, work: Coroutine[Any, Any, None]) -> bool:
    """Do the work; cancel it where the client goes away first. Tell whether it was done."""
    this = asyncio.current_task()
    assert this is not None, "requests are answered in tasks"
    gone = False

    async def watch() -> None:
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
            pass
        gone = True
        this.cancel()

    watching = asyncio.create_task(watch())
    try:
        await work
    except asyncio.CancelledError:
        if not gone:
            raise
        this.uncancel()
    finally:
        watching.cancel()
    return not gone


async def _render(request: Request, error: Exception) -> Response:
    """Say any fault in OpenAI's envelope, but for what `Admission` refuses."""
    told = as_request_error(error)
    record = record_of(request.scope)
    record.error = told.code or ""
    response = error_response(told)
    if told.status == 500:
        response.headers["X-Request-ID"] = record.request_id  # this one goes out past the logging
    return response


async def _gone(request: Request, error: Exception) -> Response:
    """Note that there is nobody to answer."""
    record_of(request.scope).aborted = True
    return Response()


def _warning(prepared: Prepared) -> list[tuple[bytes, bytes]]:
    if not prepared.warning:
        return []
    return [(b"x-ochatctl-warning", prepared.warning.encode("ascii", errors="backslashreplace"))]


def _json(value: object) -> Response:
    return Response(encode(value), media_type="application/json")
