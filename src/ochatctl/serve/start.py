"""The whole of `ochatctl serve`: check, load, listen, and say on the way what is happening.

in: ServeConfig, out: a server that has ended
"""

import asyncio
import sys
from collections.abc import Callable

from ochatctl.engine.load import LoadedModel, find_model, load_model
from ochatctl.errors import DataError, EnvironmentProblem, UsageProblem
from ochatctl.extras import has
from ochatctl.serve.app import Outside, create_app
from ochatctl.serve.config import AppConfig, ServeConfig
from ochatctl.serve.keys import KeyRing
from ochatctl.serve.logs import check_log
from ochatctl.serve.pages import curl_line
from ochatctl.serve.plan import ServePlan, make_plan
from ochatctl.serve.root_path import is_prefix
from ochatctl.serve.server import Interrupted, bind, check_port, check_tls, is_loopback, no_hangup, run_app, settle
from ochatctl.serve.web_page import read_page

Note = Callable[[str], None]


def run(config: ServeConfig, note: Note) -> None:
    """Serve until a signal.

    Raises:
        UsageProblem: other machines could call without a key, or the root path is none.
        DataError: the keys file is none.
        EnvironmentProblem: the port is taken, the log or a certificate cannot be used, or the engine lacks something.
        RunError: the engine died, or is stuck.
        KeyboardInterrupt: Ctrl-C.
    """
    _check(config)
    check_port(config.host, config.port)
    check_log(config.log)
    with no_hangup():
        model = load_model(config.load, note)
        try:
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                runner.run(_serve(config, model, note))
        except Interrupted:
            raise KeyboardInterrupt from None


def plan(config: ServeConfig, note: Note) -> ServePlan:
    """Do everything up to loading the weights, and give what they need.

    Raises what `run` does, but for a port that is taken: that is only said, for an estimate needs none.
    """
    _check(config)
    try:
        check_port(config.host, config.port)
    except EnvironmentProblem as error:
        note(f"note: {error.message}; {error.hint}" if error.hint else f"note: {error.message}")
    return make_plan(config, find_model(config.load, note, say_engine=False))


def _check(config: ServeConfig) -> None:
    """Stop before a model is loaded where the server could not serve, or anybody could call."""
    if not is_loopback(config.host) and not config.needs_key and not config.no_auth:
        raise UsageProblem(
            f"`--host {config.host}` lets other machines call, and there is no key",
            hint=f"add `--api-keys sk-YOUR-KEY`, or `--no-auth`: ochatctl serve --host {config.host} --api-keys sk-1",
        )
    if config.root_path and not is_prefix(config.root_path):
        raise UsageProblem(
            f"`--root-path {config.root_path}` is no prefix of a path",
            hint="as a proxy puts it, such as `--root-path /llm`",
        )
    KeyRing(config.api_keys, config.api_keys_file)
    check_tls(config.tls)


async def _serve(config: ServeConfig, model: LoadedModel, note: Note) -> None:
    try:
        await model.engine.start()
        sockets = bind(config.host, config.port)
        app_config = _app_config(config, model, sockets[0].getsockname()[1])
        app = create_app(model.engine, model.family, model.tokenizer, app_config)
        settle()
        await run_app(
            app,
            sockets,
            limits=config.limits,
            tls=config.tls,
            forwarded_allow_ips=config.forwarded_allow_ips,
            on_ready=lambda: _say(config, model, app_config, len(app.state.outside.keys), note),
            on_hangup=lambda: _reload(app.state.outside, note),
        )
    finally:
        await model.engine.close()


def _app_config(config: ServeConfig, model: LoadedModel, port: int) -> AppConfig:
    host = "localhost" if config.host in ("0.0.0.0", "::", "") else config.host
    adapters = tuple(adapter.name for adapter in model.adapters)
    return AppConfig(
        model_names=tuple(dict.fromkeys((*config.served_model_names, *model.names, *adapters))),
        adapters=adapters,
        base_url=f"http{'s' if config.tls.certfile else ''}://{f'[{host}]' if ':' in host else host}:{port}/v1",
        web=config.web,
        root_path=config.root_path,
        stop_token_ids=model.stop_token_ids,
        trained_conditions=model.trained_conditions,
        api_keys=config.api_keys,
        api_keys_file=config.api_keys_file,
        stream_period=config.stream_period,
        limits=config.limits,
        cors=config.cors,
        log=config.log,
    )


def _say(config: ServeConfig, model: LoadedModel, app: AppConfig, num_keys: int, note: Note) -> None:
    family, context = model.family, model.engine.context_tokens
    condition = f" (condition `{family.template.inference_condition}`)" if family.template.inference_condition else ""
    note(f"model: `{app.model_names[0]}`, family `{family.name}`{condition}, {context} tokens of context")
    if app.adapters:
        note(f"adapters: {', '.join(f'`{name}`' for name in app.adapters)}, each a model to clients")
    if app.needs_key:
        note(f"keys: {num_keys}; a request without one gets 401")
    else:
        note("keys: none; everybody who reaches this port may call")
    note(f"ready: {app.base_url}")
    if config.web:
        built = "" if read_page() else " (a page of text: the chat page is not built, `make web` does it)"
        note(f"chat:  {app.base_url.removesuffix('/v1')}/{built}")
    note(f"try:   {curl_line(app.base_url, app.model_names[0], needs_key=app.needs_key)}")
    key = " --api-key KEY" if app.needs_key else ""
    note(f"or:    ochatctl chat --base-url {app.base_url}{key}")


def _reload(outside: Outside, note: Note) -> None:
    """Read the keys again, and open the log again, which logrotate or a person has moved."""
    keys = outside.keys
    outside.log.reopen()
    try:
        keys.reload()
    except DataError as error:
        note(f"keys: as before, for {error.message}")
    else:
        note(f"keys: {len(keys)}, read again")


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Give uvloop's loops where it is installed, which is wherever uvicorn[standard] supports it."""
    if sys.platform == "win32" or not has("uvloop"):
        return None
    import uvloop

    return uvloop.new_event_loop
