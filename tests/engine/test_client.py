"""Both clients against the same model give the same answers; the HTTP one over a real socket."""

import asyncio
import http.server
import json
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import aclosing, contextmanager
from email.utils import formatdate
from typing import Any

import pytest
from serving_for_tests import byte_tokenizer, serving

from ochatctl.chat.conversation import Conversation, Message
from ochatctl.chat.families import get_family
from ochatctl.engine.client import Ask, ChatClient, Reply
from ochatctl.engine.client_http import Dialect, HttpClient
from ochatctl.engine.client_local import LocalClient
from ochatctl.engine.echo import EchoEngine
from ochatctl.engine.endpoint import Patience
from ochatctl.engine.prompt import PromptTooLong, fit_prompt, stop_token_ids
from ochatctl.errors import ConfigError, DataError, RemoteError, RunError

FAMILY = get_family("openchat_v3.2")
TOKENIZER = byte_tokenizer(FAMILY)


def chat(*contents: str, **fields: str) -> Conversation:
    roles = ("user", "assistant")
    messages = tuple(Message(role=roles[index % 2], content=content) for index, content in enumerate(contents))
    return Conversation(messages=messages, **fields)


GREEDY = Ask(temperature=0.0)
QUICK = Patience(first_wait_seconds=0.02)


async def streamed(client: ChatClient, conversation: Conversation, ask: Ask = GREEDY) -> str:
    return "".join([piece async for piece in client.stream(conversation, ask)])


def run(client: ChatClient, work: Callable[[ChatClient], Coroutine[Any, Any, Any]]) -> Any:
    async def inner() -> Any:
        try:
            return await work(client)
        finally:
            await client.close()

    return asyncio.run(inner())


async def started(engine: EchoEngine) -> LocalClient:
    await engine.start()
    return LocalClient(engine, FAMILY, TOKENIZER)


def test_both_clients_give_the_same_answer_and_counts() -> None:
    conversation = chat("Hello", "Hi there", "wörld 🌍", system="Be brief.", condition="GPT3")

    async def ask(client: ChatClient) -> tuple[str, Reply]:
        settings = Ask(temperature=0.0, stop=("!",))
        return await streamed(client, conversation, settings), await client.complete(conversation, settings)

    async def here() -> Any:
        client = await started(EchoEngine(TOKENIZER))
        try:
            return await ask(client)
        finally:
            await client.close()

    with serving() as served:
        there = run(HttpClient(served.base_url + "/v1"), ask)
    assert there == asyncio.run(here())
    assert there[0] == there[1].text == "wörld 🌍"
    assert there[1].num_prompt_tokens > 40
    assert there[1].num_answer_tokens == len("wörld 🌍".encode()) + 1


def test_the_room_that_is_left_limits_an_answer_and_a_full_context_is_said() -> None:
    async def ask(client: ChatClient) -> Reply:
        with pytest.raises(PromptTooLong):
            await client.complete(chat("x" * 5_000), GREEDY)
        return await client.complete(chat("abcdef"), Ask(max_tokens=3, temperature=0.0))

    async def here() -> Reply:
        return await ask(await started(EchoEngine(TOKENIZER)))

    with serving() as served:
        replies = [asyncio.run(here()), run(HttpClient(served.base_url + "/v1"), ask)]
    assert [(reply.text, reply.finish_reason) for reply in replies] == [("abc", "length")] * 2


def test_a_continued_message_hands_its_last_tokens_to_the_engine() -> None:
    prompt = fit_prompt(chat("Hi", "Say no"), family=FAMILY, tokenizer=TOKENIZER, context_tokens=100)
    assert bytes(prompt.context_ids) == b"Say no"
    assert prompt.max_tokens == 100 - len(prompt.token_ids)
    assert fit_prompt(chat("Hi"), family=FAMILY, tokenizer=TOKENIZER, context_tokens=100).context_ids == ()


def test_an_answer_ends_at_the_familys_token_and_at_the_folders_own(tmp_path: Any) -> None:
    eot = TOKENIZER.token_id("<|end_of_turn|>")
    assert stop_token_ids(FAMILY, TOKENIZER) == (eot,)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 999999]}')
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": {"content": "Z"}}')
    assert stop_token_ids(FAMILY, TOKENIZER, tmp_path) == (eot, 2, ord("Z"))


def test_leaving_a_stream_frees_the_slot() -> None:
    engine = EchoEngine(TOKENIZER, delay_seconds=0.01)

    async def here() -> int:
        client = await started(engine)
        async with aclosing(client.stream(chat("x" * 999), GREEDY)) as pieces:
            assert await anext(pieces) == "x"
            assert engine.num_running == 1
        return engine.num_running

    assert asyncio.run(here()) == 0


def test_a_dead_engine_is_a_run_error_here_and_a_remote_error_there() -> None:
    async def ask(client: ChatClient) -> str:
        return await streamed(client, chat("Hello"))

    async def here() -> str:
        return await ask(await started(EchoEngine(TOKENIZER, die_after_tokens=2)))

    with pytest.raises(RunError):
        asyncio.run(here())
    with (
        serving(engine=EchoEngine(TOKENIZER, die_after_tokens=2)) as served,
        pytest.raises(RemoteError, match="mid-answer"),
    ):
        run(HttpClient(served.base_url + "/v1", max_retries=0), ask)


def test_a_server_with_keys_is_asked_with_one_and_says_what_is_missing_without() -> None:
    async def ask(client: ChatClient) -> str:
        return await streamed(client, chat("Hello"))

    with serving(api_keys=("sk-1",)) as served:
        url = served.base_url + "/v1"
        assert run(HttpClient(url, api_key="sk-1"), ask) == "Hello"
        for key, said in ((None, "no key was given"), ("sk-2", "the key that was given is wrong")):
            with pytest.raises(RemoteError, match=said) as caught:
                run(HttpClient(url, api_key=key), ask)
            assert "OCHATCTL_API_KEY" in caught.value.hint
            assert "sk-2" not in caught.value.message + caught.value.hint


def test_nothing_at_the_address_names_the_command_that_starts_a_server() -> None:
    with pytest.raises(RemoteError, match="nothing answers") as caught:
        run(HttpClient("http://127.0.0.1:9/v1", "m", max_retries=0), lambda client: streamed(client, chat("Hi")))
    assert "ochatctl serve" in caught.value.hint


def test_an_address_or_a_key_that_cannot_be_used_is_refused_and_the_key_not_shown() -> None:
    with pytest.raises(ConfigError):
        HttpClient("localhost:18888")
    for key in ("sk-\n1", "sk-ключ"):
        with pytest.raises(ConfigError) as caught:
            HttpClient("http://localhost/v1", api_key=key)
        assert "sk-" not in caught.value.message


def test_half_a_character_pair_is_refused_before_it_is_sent() -> None:
    with pytest.raises(DataError, match="surrogate"):
        run(HttpClient("http://127.0.0.1:9/v1", "m"), lambda client: streamed(client, chat("\ud800")))


Answers = list[tuple[int, dict[str, str], bytes]]


@contextmanager
def stub(answers: Answers) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Answer requests in order from a list (a status of -1 hangs); give the address and what was asked."""
    asked: list[dict[str, Any]] = []
    released = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            asked.append({"path": self.path, "key": self.headers["authorization"], "body": body})
            status, headers, content = answers[min(len(asked), len(answers)) - 1]
            if status < 0:  # hang
                released.wait(5)
                return
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self) -> None:
            content = json.dumps({"data": [{"id": "a"}, {"id": "b"}]}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", asked
    finally:
        released.set()
        server.shutdown()
        thread.join()
        server.server_close()


GOOD = json.dumps({"choices": [{"message": {"content": "ok"}, "finish_reason": "stop"}]}).encode()


def complete(url: str, **options: Any) -> Any:
    client = HttpClient(url, "m", **options)
    return run(client, lambda c: c.complete(chat("Hi"), Ask(max_tokens=5, temperature=0.5, seed=3, stop=("x",))))


def test_what_is_sent_is_openais_and_only_what_was_asked_for() -> None:
    with stub([(200, {}, GOOD)]) as (url, asked):
        assert complete(url, api_key="sk-9").text == "ok"
    assert asked[0]["path"] == "/v1/chat/completions"
    assert asked[0]["key"] == "Bearer sk-9"
    assert asked[0]["body"] == {
        "model": "m", "messages": [{"role": "user", "content": "Hi"}], "temperature": 0.5, "max_tokens": 5,
        "seed": 3, "stop": ["x"],
    }  # fmt: skip


def test_a_busy_endpoint_is_asked_again_a_bounded_number_of_times() -> None:
    with stub([(429, {"retry-after": "0"}, b"{}"), (503, {}, b"no"), (200, {}, GOOD)]) as (url, asked):
        assert complete(url, patience=QUICK).text == "ok"
        assert len(asked) == 3
    with stub([(503, {}, b'{"error": {"message": "full"}}')]) as (url, asked):
        with pytest.raises(RemoteError, match="503: full"):
            complete(url, max_retries=1, patience=QUICK)
        assert len(asked) == 2


def test_an_endpoint_is_not_asked_sooner_than_it_says_and_not_at_all_where_that_is_too_late() -> None:
    heard: list[float] = []
    with stub([(429, {"retry-after": "0.2"}, b"{}"), (200, {}, GOOD)]) as (url, _):
        started = time.monotonic()
        assert complete(url, patience=QUICK, on_busy=heard.append).text == "ok"
        assert time.monotonic() - started >= 0.2
    tomorrow = formatdate(time.time() + 86_400, usegmt=True)
    for late in ("3600", tomorrow):
        with stub([(429, {"retry-after": late}, b"{}")]) as (url, asked):
            with pytest.raises(RemoteError, match="429"):
                complete(url, on_busy=heard.append)
            assert len(asked) == 1
    assert [round(seconds) for seconds in heard[:2]] == [0, 3600]
    assert 86_000 < heard[2] <= 86_400


def test_an_empty_account_is_not_a_busy_endpoint() -> None:
    body = json.dumps({"error": {"message": "pay first", "code": "insufficient_quota"}}).encode()
    with stub([(429, {}, body)]) as (url, asked):
        with pytest.raises(RemoteError, match="429: pay first"):
            complete(url)
        assert len(asked) == 1


def test_silence_is_asked_again_only_where_nobody_sits_and_waits() -> None:
    for retry, num_asked in ((False, 1), (True, 2)):
        patience = Patience(max_retries=1, silence_seconds=0.1, first_wait_seconds=0.01, retry_silence=retry)
        with stub([(-1, {}, b"")]) as (url, asked):
            with pytest.raises(RemoteError, match="failed"):
                complete(url, patience=patience)
            assert len(asked) == num_asked


def test_a_dialect_renames_parameters_and_leaves_them_out() -> None:
    dialect = Dialect(renamed={"max_tokens": "max_completion_tokens", "temperature": None})
    with stub([(200, {}, GOOD)]) as (url, asked):
        complete(url, dialect=dialect)
    assert asked[0]["body"]["max_completion_tokens"] == 5
    assert not {"max_tokens", "temperature"} & set(asked[0]["body"])


def test_the_candidates_for_the_first_token_are_given_where_they_come() -> None:
    rows = [{"token": "m", "logprob": -0.5}, {"token": "M", "logprob": -1.0}]
    choice = {"message": {"content": "m"}, "logprobs": {"content": [{"top_logprobs": rows}]}}
    ask = Ask(max_tokens=1, top_logprobs=5)
    with stub([(200, {}, json.dumps({"choices": [choice]}).encode()), (200, {}, GOOD)]) as (url, asked):
        replies = [run(HttpClient(url, "m"), lambda client: client.complete(chat("Hi"), ask)) for _ in range(2)]
    assert [reply.first_logprobs for reply in replies] == [{"m": -0.5, "M": -1.0}, None]
    assert (asked[0]["body"]["logprobs"], asked[0]["body"]["top_logprobs"]) == (True, 5)


def test_a_refusal_is_not_asked_again_and_a_redirect_not_followed() -> None:
    with stub([(400, {}, b'{"error": {"message": "bad", "code": null}}')]) as (url, asked):
        with pytest.raises(RemoteError, match="400: bad"):
            complete(url)
        assert len(asked) == 1
    with stub([(200, {}, GOOD)]) as (other, stolen), stub([(307, {"location": other}, b"")]) as (url, _):
        with pytest.raises(RemoteError, match="redirects"):
            complete(url, api_key="sk-1")
        assert stolen == []


@pytest.mark.parametrize("content", [b"<html>", b"[]", b'{"choices": []}', b'{"choices": [3]}'])
def test_what_is_no_chat_completion_is_a_remote_error(content: bytes) -> None:
    with stub([(200, {}, content)]) as (url, _), pytest.raises(RemoteError):
        complete(url)


def test_a_stream_that_ends_too_soon_is_not_taken_for_an_answer() -> None:
    event = b'data: {"choices": [{"delta": {"content": "half"}}]}\n\n'
    with stub([(200, {}, event)]) as (url, _), pytest.raises(RemoteError, match="broke off"):
        run(HttpClient(url, "m"), lambda client: streamed(client, chat("Hi")))


def test_an_endpoint_with_several_models_wants_a_name() -> None:
    with stub([(200, {}, GOOD)]) as (url, _), pytest.raises(ConfigError, match="`a`, `b`") as caught:
        run(HttpClient(url), lambda client: streamed(client, chat("Hi")))
    assert "--model-name" in caught.value.hint


def test_an_untrained_condition_is_warned_of_once_by_both_clients() -> None:
    async def ask(client: ChatClient) -> None:
        for condition in ("GPT4", "Code", "Code"):
            await client.complete(chat("Hello", condition=condition), GREEDY)

    async def here(note: Callable[[str], None]) -> None:
        engine = EchoEngine(TOKENIZER)
        await engine.start()
        client = LocalClient(engine, FAMILY, TOKENIZER, trained_conditions=("GPT4",), note=note)
        await ask(client)
        await client.close()

    local: list[str] = []
    asyncio.run(here(local.append))
    remote: list[str] = []
    with serving(trained_conditions=("GPT4",)) as served:
        run(HttpClient(served.base_url + "/v1", note=remote.append), ask)
    assert local == remote == ["warning: the condition asked for was not trained; trained: GPT4"]
