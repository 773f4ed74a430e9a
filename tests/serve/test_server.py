"""The server as a whole: it ends when its engine does, and says who holds a port."""

import asyncio
import threading

import httpx
import pytest
from serving_for_tests import byte_tokenizer

from ochatctl.chat.families import get_family
from ochatctl.engine.echo import EchoEngine
from ochatctl.errors import EnvironmentProblem, RunError
from ochatctl.serve.app import create_app
from ochatctl.serve.config import AppConfig
from ochatctl.serve.server import bind, check_port, is_loopback, run_app

FAMILY = get_family("openchat_v3.2")


def test_the_death_of_the_engine_ends_the_server_with_an_error_and_each_stream_with_an_event() -> None:
    tokenizer = byte_tokenizer(FAMILY)
    engine = EchoEngine(tokenizer, die_after_tokens=3)
    config = AppConfig(model_names=("echo",))
    (listener,) = bind("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1/chat/completions"
    body = {"model": "echo", "stream": True, "messages": [{"role": "user", "content": "Hello"}]}
    streamed: list[str] = []

    def ask() -> None:
        streamed.append(httpx.post(url, json=body).text)

    client = threading.Thread(target=ask)

    async def serve() -> None:
        await engine.start()
        app = create_app(engine, FAMILY, tokenizer, config)
        await run_app(app, [listener], limits=config.limits, on_ready=client.start)

    with pytest.raises(RunError):
        asyncio.run(serve())
    client.join()
    assert streamed[0].count('"engine_unavailable"') == 1
    assert "[DONE]" not in streamed[0]
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)


def test_localhost_is_listened_to_at_each_of_its_addresses() -> None:
    sockets = bind("localhost", 0)
    try:
        assert len({each.getsockname()[1] for each in sockets}) == 1
        assert "127.0.0.1" in {each.getsockname()[0] for each in sockets}
        port = sockets[0].getsockname()[1]
        for each in sockets:
            each.listen()
        with pytest.raises(EnvironmentProblem, match=f"port {port} of `localhost` is in use"):
            check_port("localhost", port)
    finally:
        for each in sockets:
            each.close()


def test_a_host_that_is_not_this_machines_is_said() -> None:
    with pytest.raises(EnvironmentProblem, match="is no address"):
        bind("no.such.host.invalid", 0)
    with pytest.raises(EnvironmentProblem):
        bind("192.0.2.1", 0)


def test_what_is_loopback() -> None:
    assert [is_loopback(host) for host in ("localhost", "127.0.0.2", "::1")] == [True] * 3
    others = ("0.0.0.0", "::", "", "192.168.0.1", "localhost.example")
    assert not any(is_loopback(host) for host in others)
