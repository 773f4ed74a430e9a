"""Which answers of an endpoint are asked for again and which are final, and that its key stays with it."""

import json
import time
from email.utils import formatdate
from typing import Any

import pytest
from endpoint_stub_for_tests import run, stub
from serving_for_tests import serving
from waiting_for_tests import wait_until

from ochatctl.engine.endpoint import Endpoint, Patience
from ochatctl.errors import ConfigError, RemoteError

QUICK = Patience(first_wait_seconds=0.02)
GOOD = b'{"is": "good"}'


def endpoint(url: str, api_key: str | None = None, **settings: Any) -> Endpoint:
    settings = {"patience": QUICK, "on_busy": lambda wait_seconds: None, "note": None} | settings
    return Endpoint(url, api_key, **settings)


def asked_for(url: str, api_key: str | None = None, **settings: Any) -> Any:
    return run(endpoint(url, api_key, **settings), lambda it: it.table("POST", "/some", {"of": "mine"}))


async def every_event(it: Endpoint) -> list[str]:
    return [data async for data in it.events("/some", {})]


def test_a_server_with_keys_is_asked_with_one_and_says_what_is_missing_without() -> None:
    with serving(api_keys=("sk-1",)) as served:
        assert run(endpoint(served.base_url, "sk-1"), lambda it: it.table("GET", "/v1/models"))["data"]
        for key, said in ((None, "no key was given"), ("sk-2", "answered 401: the API key is wrong")):
            with pytest.raises(RemoteError, match=said) as caught:
                run(endpoint(served.base_url, key), lambda it: it.table("GET", "/v1/models"))
            assert "OCHATCTL_API_KEY" in caught.value.hint
            assert "sk-2" not in caught.value.message + caught.value.hint


def test_nothing_at_the_address_names_the_command_that_starts_a_server() -> None:
    with pytest.raises(RemoteError, match="nothing answers") as caught:
        asked_for("http://127.0.0.1:9/v1", patience=Patience(max_retries=0))
    assert "ochatctl serve" in caught.value.hint


def test_an_address_or_a_key_that_cannot_be_used_is_refused_and_the_key_not_shown() -> None:
    with pytest.raises(ConfigError):
        endpoint("localhost:18888")
    for key in ("sk-\n1", "sk-ключ"):
        with pytest.raises(ConfigError) as caught:
            endpoint("http://localhost/v1", key)
        assert "sk-" not in caught.value.message


def test_a_busy_endpoint_is_asked_again_a_bounded_number_of_times() -> None:
    with stub([(429, {"retry-after": "0"}, b"{}"), (503, {}, b"no"), (200, {}, GOOD)]) as (url, asked):
        assert asked_for(url) == {"is": "good"}
        assert len(asked) == 3
    with stub([(503, {}, b'{"error": {"message": "full"}}')]) as (url, asked):
        with pytest.raises(RemoteError, match="503: full"):
            asked_for(url, patience=Patience(max_retries=1, first_wait_seconds=0.02))
        assert len(asked) == 2


def test_an_endpoint_is_not_asked_sooner_than_it_says_and_not_at_all_where_that_is_too_late() -> None:
    heard: list[float] = []
    with stub([(429, {"retry-after": "0.2"}, b"{}"), (200, {}, GOOD)]) as (url, _):
        started = time.monotonic()
        assert asked_for(url, on_busy=heard.append) == {"is": "good"}
        assert time.monotonic() - started >= 0.2
    tomorrow = formatdate(time.time() + 86_400, usegmt=True)
    for late in ("3600", tomorrow):
        with stub([(429, {"retry-after": late}, b"{}")]) as (url, asked):
            with pytest.raises(RemoteError, match="429"):
                asked_for(url, on_busy=heard.append)
            assert len(asked) == 1
    assert [round(seconds) for seconds in heard[:2]] == [0, 3600]
    assert 86_000 < heard[2] <= 86_400


def test_an_empty_account_is_not_a_busy_endpoint() -> None:
    body = json.dumps({"error": {"message": "pay first", "code": "insufficient_quota"}}).encode()
    with stub([(429, {}, body)]) as (url, asked):
        with pytest.raises(RemoteError, match="429: pay first"):
            asked_for(url)
        assert len(asked) == 1


def test_silence_is_asked_again_only_where_nobody_sits_and_waits() -> None:
    for retry, num_asked in ((False, 1), (True, 2)):
        patience = Patience(max_retries=1, silence_seconds=0.1, first_wait_seconds=0.01, retry_silence=retry)
        with stub([(-1, {}, b"")]) as (url, asked):
            with pytest.raises(RemoteError, match="failed"):
                asked_for(url, patience=patience)
            # A busy machine may read a request only after its sender has given up.
            wait_until(lambda asked=asked, least=num_asked: len(asked) >= least)
            assert len(asked) == num_asked


def test_an_answer_that_breaks_off_is_asked_for_once_more_and_then_an_error() -> None:
    half = (200, {"content-length": "99"}, b'{"is": ')
    with stub([half, (200, {}, GOOD)]) as (url, asked):
        assert asked_for(url) == {"is": "good"}
        assert len(asked) == 2
    with stub([half]) as (url, asked):
        with pytest.raises(RemoteError, match="mid-answer"):
            asked_for(url)
        assert len(asked) == 2
    with stub([(200, {"content-length": "99"}, b"data: 1\n\n")]) as (url, asked):
        with pytest.raises(RemoteError, match="mid-answer"):
            run(endpoint(url), every_event)
        assert len(asked) == 1


def test_a_refusal_that_breaks_off_is_a_failure_like_any_other() -> None:
    half = (503, {"content-length": "99"}, b'{"error": ')
    with stub([half, (200, {}, GOOD)]) as (url, asked):
        assert asked_for(url) == {"is": "good"}
        assert len(asked) == 2
    with stub([half]) as (url, _), pytest.raises(RemoteError, match="failed"):
        asked_for(url, patience=Patience(max_retries=0))


def test_events_are_given_as_they_come() -> None:
    with stub([(200, {}, b": hush\n\ndata: 1\n\ndata:2\n\n")]) as (url, _):
        assert run(endpoint(url), every_event) == ["1", "2"]


def test_a_refusal_is_not_asked_again_and_a_redirect_not_followed() -> None:
    with stub([(400, {}, b'{"error": {"message": "bad", "code": null}}')]) as (url, asked):
        with pytest.raises(RemoteError, match="400: bad"):
            asked_for(url)
        assert len(asked) == 1
    with stub([(200, {}, GOOD)]) as (other, stolen), stub([(307, {"location": other}, b"")]) as (url, _):
        with pytest.raises(RemoteError, match="redirects"):
            asked_for(url, "sk-1")
        assert stolen == []
