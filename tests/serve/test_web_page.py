"""The chat page's files: which are given, with which headers, and that nothing else can be asked for."""

import gzip
import http.client
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from serving_for_tests import Served, serving

from ochatctl.serve.web_page import INDEX, read_page

PAGE = read_page()


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(api_keys=("sk-1",)) as served:
        yield served


def test_the_page_is_built_and_asks_only_for_files_that_are_there() -> None:
    """Guarantees that the wheel ships it: hatch packs whatever stands in the folder."""
    text = PAGE[INDEX].content.decode()
    wanted = re.findall(r'(?:src|href)="([^"]+)"', text)
    assert any(each.endswith(".js") for each in wanted)
    # Relative, so that a prefix of a proxy changes nothing.
    assert all(each.startswith(("./", "data:")) for each in wanted), wanted
    assert {each[1:] for each in wanted if each.startswith("./")} <= set(PAGE)
    assert "<style" not in text
    assert " style=" not in text
    assert not re.search(r"<script(?![^>]*\ssrc=)", text)


def test_no_file_names_an_address_of_another_origin_to_load_from() -> None:
    for path, file in PAGE.items():
        if path.endswith((".css", ".html")) or path == INDEX:
            assert not re.search(rb"(?:url\(|@import|src=|href=)\s*[\"']?(?:https?:)?//", file.content), path


@pytest.mark.parametrize("path", sorted(PAGE))
def test_each_file_is_given_without_a_key_and_again_only_when_it_changed(served: Served, path: str) -> None:
    url = served.base_url + path
    answer = httpx.get(url)
    assert (answer.status_code, answer.content) == (200, PAGE[path].content)
    assert answer.headers["cache-control"] == (
        "public, max-age=31536000, immutable" if path.startswith("/assets/") else "no-cache"
    )
    again = httpx.get(url, headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", answer.headers["etag"])
    assert httpx.get(url, headers={"if-none-match": '"other"'}).status_code == 200
    head = httpx.head(url)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == answer.headers["content-type"]
    assert httpx.post(url).status_code in (401, 405)


def test_a_large_file_comes_squeezed_to_who_takes_it(served: Served) -> None:
    path = max(PAGE, key=lambda path: len(PAGE[path].content))
    for takes, encoding in (("gzip, br", "gzip"), ("identity", None), ("gzip;q=0", None)):
        with httpx.stream("GET", served.base_url + path, headers={"accept-encoding": takes}) as answer:
            content = b"".join(answer.iter_raw())
        assert answer.headers.get("content-encoding") == encoding
        assert (gzip.decompress(content) if encoding else content) == PAGE[path].content


def test_the_policy_lets_no_inline_script_and_no_other_origin_in(served: Served) -> None:
    headers = httpx.get(served.base_url).headers
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert {policy[key] for key in ("base-uri", "form-action", "frame-ancestors", "object-src")} == {"'none'"}
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize(
    "path",
    [
        "/assets", "/assets/", "/assets/../../app.py", "/assets/..%2f..%2fapp.py", "/assets/%2e%2e/index.html",
        "/../web_page.py", "/..%2fapp.py", "/index.html", "/assets//etc/passwd", "//etc/passwd", "/assets/..\\app.py",
        "/web/index.html", "/assets/x.js%00.css", "/.gitignore",
    ],
)  # fmt: skip
def test_nothing_else_can_be_asked_for(served: Served, path: str) -> None:
    statuses = []
    for headers in ({}, {"authorization": "Bearer sk-1"}):
        connection = http.client.HTTPConnection(served.base_url.removeprefix("http://"))
        connection.putrequest("GET", path, skip_host=False)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        statuses.append(connection.getresponse().status)
        connection.close()
    assert statuses == [401, 404]


def test_the_page_can_be_turned_off() -> None:
    with serving(web=False) as served:
        asset = next(path for path in PAGE if path.startswith("/assets/"))
        assert httpx.get(served.base_url + asset).status_code == 404


def test_behind_a_prefix_the_page_is_one_slash_further() -> None:
    with serving(root_path="/llm") as served:
        answer = httpx.get(f"{served.base_url}/llm", follow_redirects=True)
        assert answer.url.path == "/llm/"
        script = re.findall(r'src="\./([^"]+)"', answer.text)[0]
        assert httpx.get(f"{served.base_url}/llm/{script}").status_code == 200


def test_a_folder_without_a_page_gives_none_and_one_with_it_gives_only_known_kinds(tmp_path: Path) -> None:
    assert read_page(tmp_path) == {}
    (tmp_path / "assets").mkdir()
    for name in ("index.html", "icon.svg", ".hidden", "notes.py", "assets/a.js"):
        (tmp_path / name).write_text("x", encoding="utf-8")
    assert set(read_page(tmp_path)) == {"/", "/icon.svg", "/assets/a.js"}


def test_a_models_card_says_which_conditions_there_are() -> None:
    told = []
    for family in ("openchat_v3.2_mistral", "openchat_v2_llama2", "chatml"):
        with serving(family) as served:
            card = httpx.get(f"{served.base_url}/v1/models").json()["data"][0]
            told.append((card["family"], card["default_condition"], card["conditions"]))
    assert told == [
        ("openchat_v3.2_mistral", "GPT4 Correct", []),
        ("openchat_v2_llama2", "GPT4", ["GPT4", "GPT3"]),
        ("chatml", None, []),
    ]


def test_the_pages_packages_come_from_nobodys_own_registry() -> None:
    lock = Path(__file__).parents[2] / "web" / "package-lock.json"
    if not lock.is_file():
        pytest.skip("the page's source is not here")
    addresses = re.findall(r'"resolved": "([^"]+)"', lock.read_text(encoding="utf-8"))
    assert all(each.startswith("https://registry.npmjs.org/") for each in addresses)
    assert lock.read_text(encoding="utf-8").count('"integrity": "sha512-') > 50
