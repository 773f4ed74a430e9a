"""What a key may ask in a minute and at once, over a real socket; the arithmetic with a clock of its own."""

import threading

import httpx
import pytest
from gated_engine_for_tests import GatedEngine
from hypothesis import given, settings
from hypothesis import strategies as st
from serving_for_tests import byte_tokenizer, serving

from ochatctl.chat.families import get_family
from ochatctl.engine.base import Delta
from ochatctl.engine.echo import EchoEngine
from ochatctl.serve.bucket import Bucket
from ochatctl.serve.config import LimitConfig
from ochatctl.serve.protocol import RequestError
from ochatctl.serve.quota import Quota
from ochatctl.serve.record import RequestRecord

BODY = {"model": "echo", "messages": [{"role": "user", "content": "Hi"}]}
CHAT = "/v1/chat/completions"
A, B = {"authorization": "Bearer sk-a"}, {"authorization": "Bearer sk-b"}


def assert_refused(response: httpx.Response) -> int:
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["type"]) == (429, "rate_limit_exceeded", "rate_limit_error")
    return int(response.headers["retry-after"])


def test_requests_a_minute_are_each_keys_own() -> None:
    with serving(api_keys=("sk-a", "sk-b"), requests_per_minute=2) as served:
        url = served.base_url + CHAT
        assert [httpx.post(url, json=BODY, headers=A).status_code for _ in range(2)] == [200, 200]
        assert 15 <= assert_refused(httpx.post(url, json=BODY, headers=A)) <= 30
        assert httpx.post(url, json=BODY, headers=B).status_code == 200
        assert httpx.post(url, json=BODY).status_code == 401
        assert httpx.get(served.base_url + "/v1/models", headers=A).status_code == 200


def test_tokens_a_minute_are_counted_as_read_and_drawn() -> None:
    with serving(tokens_per_minute=30) as served:
        used = 0
        while used < 30:
            usage = httpx.post(served.base_url + CHAT, json=BODY).json()["usage"]
            used += usage["total_tokens"]
        seconds = assert_refused(httpx.post(served.base_url + CHAT, json=BODY))
        assert abs(seconds - 2 * (used + 1 - 30)) <= 2


@pytest.mark.slow
def test_requests_at_once_are_bounded_and_the_place_is_free_again() -> None:
    begun, may_end = threading.Event(), threading.Event()
    echo = EchoEngine(byte_tokenizer(get_family("openchat_v3.2")))
    engine = GatedEngine(echo, lambda number: number < 10 or may_end.is_set())
    long = {"model": "echo", "stream": True, "messages": [{"role": "user", "content": "x" * 20}]}
    with serving(engine=engine, api_keys=("sk-a", "sk-b"), max_concurrent=1) as served:
        ended = []

        def read() -> None:
            with httpx.stream("POST", served.base_url + CHAT, json=long, headers=A) as response:
                for text in response.iter_text():
                    begun.set()
                    ended.append(text)

        reader = threading.Thread(target=read)
        reader.start()
        assert begun.wait(60)
        refused = httpx.post(served.base_url + CHAT, json=BODY, headers=A)
        assert assert_refused(refused) == 1
        assert refused.json()["error"]["message"].endswith(": 1 request at once")
        assert httpx.post(served.base_url + CHAT, json=BODY, headers=B).status_code == 200
        may_end.set()
        reader.join()
        assert "".join(ended).endswith("[DONE]\n\n")
        assert httpx.post(served.base_url + CHAT, json=BODY, headers=A).status_code == 200


def test_a_key_is_in_debt_while_its_answers_are_under_way_and_until_time_has_brought_enough() -> None:
    now = 0.0
    quota = Quota(limits=LimitConfig(tokens_per_minute=60), clock=lambda: now)
    record = RequestRecord(request_id="1", endpoint=CHAT, key="a")
    account = quota.enter("POST", record)
    record.note_prompt(50)
    quota.leave(quota.enter("POST", RequestRecord(request_id="2", endpoint=CHAT, key="a")))
    record.note(0, Delta(token_ids=(1,) * 15))
    with pytest.raises(RequestError) as refused:
        quota.enter("POST", RequestRecord(request_id="3", endpoint=CHAT, key="a"))
    assert dict(refused.value.headers)["Retry-After"] == "6"
    quota.leave(quota.enter("POST", RequestRecord(request_id="4", endpoint=CHAT, key="b")))
    quota.leave(account)
    now = 6.0
    quota.leave(quota.enter("POST", RequestRecord(request_id="5", endpoint=CHAT, key="a")))


@settings(deadline=None, max_examples=30)
@given(per_minute=st.integers(1, 1000), pauses=st.lists(st.floats(0, 30), min_size=5, max_size=60))
def test_no_more_is_taken_than_a_full_bucket_and_what_time_has_brought(per_minute: int, pauses: list[float]) -> None:
    bucket = Bucket(per_minute=per_minute, level=per_minute, at=0.0)
    now, taken = 0.0, 0
    for pause in pauses:
        now += pause
        bucket.fill(now)
        if bucket.level >= 1:
            assert bucket.wait_seconds(1) == 0
            bucket.level -= 1
            taken += 1
    assert taken <= per_minute + now * per_minute / 60 + 1e-6
