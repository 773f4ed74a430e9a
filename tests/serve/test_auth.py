import http.client
import json
from collections.abc import Iterator

import httpx
import pytest
from serving_for_tests import Served, serving

BODY = {"model": "echo", "messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(api_keys=("sk-1", "sk-2")) as served:
        yield served


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Bearer "},
        {"authorization": "Bearer sk-3"},
        {"authorization": "Bearer sk-1 sk-2"},
        {"authorization": "Basic sk-1"},
        {"authorization": "sk-1"},
        {"x-api-key": "sk-1"},
        {"authorization": "Bearer \xff\xfe"},
        {"authorization": "Bearer " + "x" * 20_000},
        {"host": "localhost/health?x="},
        {"x-forwarded-prefix": "/health"},
    ],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models", "/metrics", "/version", "/nothing"])
def test_without_a_known_key_there_is_only_a_401(served: Served, path: str, headers: dict[str, str]) -> None:
    connection = http.client.HTTPConnection(served.base_url.removeprefix("http://"))
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    error = json.loads(content)["error"]
    assert (response.status, error["code"], error["type"]) == (401, "invalid_api_key", "authentication_error")
    assert response.headers["www-authenticate"] == "Bearer"
    assert b"sk-" not in content


@pytest.mark.parametrize(
    "path",
    ["//v1/models", "/health/../v1/models", "/health/", "/HEALTH", "/%2e%2e/v1/models", "/v1/%6dodels", "/health%2f"],
)
def test_no_spelling_of_a_path_gets_past_the_key(served: Served, path: str) -> None:
    host = served.base_url.removeprefix("http://")
    connection = http.client.HTTPConnection(host)
    connection.request("GET", path)
    assert connection.getresponse().status == 401
    connection.close()


def test_two_keys_at_once_are_none(served: Served) -> None:
    headers = [("authorization", "Bearer sk-1"), ("authorization", "Bearer sk-2")]
    assert httpx.get(served.base_url + "/v1/models", headers=headers).status_code == 401


@pytest.mark.parametrize("value", ["Bearer sk-1", "bearer sk-2", "BEARER sk-1", "Bearer   sk-1"])
def test_any_known_key_opens(served: Served, value: str) -> None:
    response = httpx.post(served.base_url + "/v1/chat/completions", json=BODY, headers={"authorization": value})
    assert response.status_code == 200


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (None, "an API key is needed: `Authorization: Bearer KEY`"),
        ("Bearer sk-3", "the API key is wrong"),
        ("sk-1", "`Authorization` is not as it must be; an API key is needed: `Authorization: Bearer KEY`"),
        ("Basic c2s6", "`Authorization` is not as it must be; an API key is needed: `Authorization: Bearer KEY`"),
    ],
)
def test_a_401_says_whether_the_key_or_its_header_is_wrong(served: Served, value: str | None, says: str) -> None:
    headers = {} if value is None else {"authorization": value}
    assert httpx.get(served.base_url + "/v1/models", headers=headers).json()["error"]["message"] == says


@pytest.mark.parametrize("path", ["/", "/health", "/ready"])
def test_what_is_public_needs_no_key(served: Served, path: str) -> None:
    assert httpx.get(served.base_url + path).status_code == 200
