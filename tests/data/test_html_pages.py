"""ShareGPT pages: what their script holds, whatever the page is written in; a bad one is a reason, never an error."""

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ochatctl.data.formats import Draft, to_draft
from ochatctl.data.html_pages import page_item, page_text

ITEMS = [{"from": "human", "value": "Hé?"}, {"from": "gpt", "value": "<p>a &lt; b</p>"}]


def page(data: Any, *, before: str = "", after: str = "", script: str | None = None) -> str:
    text = (json.dumps(data, ensure_ascii=False) if script is None else script).replace("</", "\\u003c/")
    return (
        f'<!DOCTYPE html><html><head>{before}</head><body><script>var x = "<b>";</script>'
        f'<script id="__NEXT_DATA__" type="application/json">{text}</script>{after}</body></html>'
    )


def data(**content: Any) -> dict[str, Any]:
    return {"props": {"pageProps": {"id": "abc", "content": {"items": ITEMS, **content}, "views": 3}}}


GOOD = {
    "as it is": page(data()),
    "a declaration that no standard knows": page(data(), before="<![weird[ x ]]> <![if IE]>"),
    "a comment and a script after it": page(data(), after="<!-- <script id='__NEXT_DATA__'>{}</script> --><script>1"),
    "a second such script": page(data(), after='<script id="__NEXT_DATA__">{}</script>'),
    "capitals and single quotes": page(data()).replace("<script id=", "<SCRIPT ID=").replace("</script>", "</SCRIPT>"),
    "no end": page(data()).removesuffix("</script></body></html>") + "</script>",
}


@pytest.mark.parametrize("text", GOOD.values(), ids=GOOD.keys())
def test_a_page_gives_its_conversation(text: str) -> None:
    item = page_item(text.encode())
    assert not item.problem
    assert item.value == {"id": "abc", "items": ITEMS}


@pytest.mark.parametrize(
    ("model", "label"),
    [("Model: GPT-4", "Model: GPT-4"), ({"slug": "gpt-4", "n": 1}, "gpt-4"), ({"label": "GPT-4", "slug": "x"}, "GPT-4"),
     (None, None), (7, None), ({}, None)],
)  # fmt: skip
def test_the_model_of_a_page_is_the_drafts(model: Any, label: str | None) -> None:
    draft = to_draft(page_item(page(data(model=model)).encode()).value)
    assert isinstance(draft, Draft)
    assert draft.model == label
    assert [message.content for message in draft.conversation.messages] == [turn["value"] for turn in ITEMS]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "the page has no `__NEXT_DATA__` script"),
        ("<html><p>404", "the page has no `__NEXT_DATA__` script"),
        ('<script id="__NEXT_DATA__">', "the page's `__NEXT_DATA__` is not valid JSON"),
        (page(None, script='{"props": '), "the page's `__NEXT_DATA__` is not valid JSON"),
        (page(None), "the page holds no conversation"),
        (page([1]), "the page holds no conversation"),
        (page({"props": {"pageProps": []}}), "the page holds no conversation"),
        (page({"props": {"pageProps": {"id": "x"}}}), "the page holds no conversation"),
        (page({"props": {"pageProps": {"content": None}}}), "the page holds no conversation"),
    ],
)
def test_a_page_without_a_conversation_says_why(text: str, problem: str) -> None:
    assert page_item(text.encode()).problem == problem


@pytest.mark.parametrize(
    ("charset", "encoding"),
    [("utf-8", "utf-8"), ("windows-1252", "cp1252"), ("iso-8859-1", "cp1252"), ("shift_jis", "shift_jis"),
     ("utf-8", "utf-8-sig"), ("utf-8", "utf-16")],
)  # fmt: skip
def test_a_page_is_read_in_its_own_encoding(charset: str, encoding: str) -> None:
    text = page(data(), before=f'<meta charset="{charset}">')
    if charset == "shift_jis":
        text = text.replace("é", "日本")
    assert page_text(text.encode(encoding)) == text


@pytest.mark.parametrize("charset", ["", "utf-8", "no-such", "hex", "undefined"])
def test_bytes_of_no_encoding_cost_only_the_turns_that_hold_them(charset: str) -> None:
    raw = page(data(), before=f'<meta charset="{charset}">').encode().replace(b"\xc3\xa9", b"\xff")
    item = page_item(raw)
    assert not item.problem
    assert item.value["items"][0]["value"] == "H\udcff?"


@given(st.binary(max_size=80), st.sampled_from(list(GOOD.values())), st.integers(0, 400), st.integers(0, 30))
@settings(deadline=None, max_examples=150)
def test_no_bytes_make_the_reader_of_pages_fail(junk: bytes, text: str, at: int, gone: int) -> None:
    raw = text.encode()
    for each in (junk, raw[:at] + junk + raw[at + gone :], raw[:at], b"<!" + junk, b"<script " + junk):
        item = page_item(each)
        assert item.problem or isinstance(item.value, dict)


@pytest.mark.parametrize("junk", ["<!--", "<a ", "<script ", '<script a="', "<![x", "<?", "<meta "])
def test_a_page_that_is_broken_over_and_over_takes_no_time(junk: str) -> None:
    started = time.monotonic()
    assert page_item((junk * 10_000).encode()).problem
    assert time.monotonic() - started < 5  # a parser of whole pages: minutes for some
