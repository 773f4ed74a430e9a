"""Whatever a model writes, nothing of it runs, loads or leaves: the table of payloads, in the real page."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser_for_tests import Stage, Visit, staged, visiting
from serving_for_tests import Served

pytestmark = pytest.mark.slow
_TABLE = Path(__file__).parents[3] / "web" / "src" / "xss.json"
A_REPLY = 12
# Of elements and attributes inside what was written, those that could do something.
_FOUND = """() => {
    const tags = ["script", "img", "svg", "math", "iframe", "object", "embed", "form", "style", "link", "meta", "base",
                  "template", "video", "audio", "source"];
    const found = [];
    for (const root of document.querySelectorAll("[data-testid=content]")) {
        for (const it of root.querySelectorAll("*")) {
            if (tags.includes(it.localName)) found.push(it.outerHTML);
            for (const { name, value } of it.attributes) {
                if (/^on|^style$|^src|^id$|^name$|formaction/.test(name)) found.push(`${name}=${value}`);
                if (name === "href" && !/^(https?:\\/\\/|mailto:)/i.test(value)) found.push(`${name}=${value}`);
            }
            if (it.localName === "a" && (it.rel !== "noopener noreferrer nofollow" || it.target !== "_blank"))
                found.push(it.outerHTML);
        }
    }
    return found;
}"""


@pytest.fixture(scope="module")
def payloads() -> list[str]:
    if not _TABLE.is_file():
        pytest.skip("the page's source is not here")
    payloads: list[str] = json.loads(_TABLE.read_text(encoding="utf-8"))
    assert len(payloads) >= 100
    return payloads


@pytest.fixture(scope="module")
def theatre() -> Iterator[tuple[Served, Stage]]:
    with staged() as both:
        yield both


def expect_inert(visit: Visit) -> None:
    visit.page.wait_for_timeout(100)  # for what loads and fails
    assert visit.page.evaluate(_FOUND) == []
    assert visit.page.evaluate("window.__xss ?? null") is None
    visit.check()


def test_what_a_model_writes_stays_inert(browser: Any, theatre: tuple[Served, Stage], payloads: list[str]) -> None:
    served, stage = theatre
    replies = ["\n\n".join(payloads[start : start + A_REPLY]) for start in range(0, len(payloads), A_REPLY)]
    with visiting(browser, served.base_url) as visit:
        for reply in replies:
            stage.say(reply)
            visit.reply_to("Say something")
            expect_inert(visit)
        seen = visit.at("thread").inner_text()
        assert "<script>" in seen  # it is shown, as text
        assert seen.count("alert(1)") > 50


def test_what_a_file_brings_stays_inert_everywhere(
    browser: Any, theatre: tuple[Served, Stage], payloads: list[str], tmp_path: Path
) -> None:
    turns = [
        {"role": role, "content": content}
        for payload in payloads
        for role, content in (
            ("user", payload),
            ("assistant", payload),
            ("user", "x"),
            ("assistant", f"- {payload}\n\n> {payload}\n\n| a |\n|---|\n| {payload} |\n\n```{payload}\n{payload}\n```"),
        )
    ]
    hostile = "<img src=x onerror=window.__xss=1>"
    words = {"title": hostile, "model": hostile, "condition": hostile, "id": hostile}
    path = tmp_path / "hostile.json"
    system = {"role": "system", "content": hostile}
    path.write_text(json.dumps({**words, "messages": [system, *turns]}), encoding="utf-8")
    with visiting(browser, theatre[0].base_url) as visit:
        visit.at("import-input").set_input_files(path)
        visit.has("message", len(turns))
        expect_inert(visit)
        assert visit.at("title").inner_text() == hostile
        visit.at("settings-open").click()
        assert visit.at("setting-condition").input_value() == hostile
        visit.at("settings-close").click()
        visit.page.keyboard.press("Control+k")
        visit.at("palette-input").fill("onerror")
        expect_inert(visit)


def test_a_key_typed_by_mistake_in_the_address_goes_nowhere(browser: Any, theatre: tuple[Served, Stage]) -> None:
    with visiting(browser, theatre[0].base_url, path="/#/c/<img%20src=x%20onerror=alert(1)>") as visit:
        visit.reply_to("Hello")
        expect_inert(visit)


def test_the_browser_would_have_refused_it_anyhow(browser: Any, theatre: tuple[Served, Stage]) -> None:
    """Guards the others against seeing nothing: what they look for is seen where it is there."""
    with visiting(browser, theatre[0].base_url) as visit:
        visit.page.evaluate(
            """document.body.insertAdjacentHTML("beforeend",
                `<div data-testid="content"><img src="https://evil.example/x.png" onerror="window.__xss = 1">
                 <iframe srcdoc="<script>parent.__xss = 1</script>"></iframe><p style="color: red">x</p></div>`)"""
        )
        visit.until("window.__refused.length >= 3")
        refused = " ".join(visit.page.evaluate("window.__refused"))
        assert "img-src" in refused
        assert "script-src" in refused
        assert "style-src" in refused
        assert visit.page.evaluate("window.__xss ?? null") is None
        assert len(visit.page.evaluate(_FOUND)) >= 3
        with pytest.raises(AssertionError):
            visit.check()
        visit.page.evaluate("window.__refused.length = 0")
        visit.said.clear()
        visit.asked.clear()
