"""What a person does with the chat page, in a real browser against a real server: every feature, from outside."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser_for_tests import Stage, Visit, staged, visiting
from serving_for_tests import Served
from waiting_for_tests import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def theatre() -> Iterator[tuple[Served, Stage]]:
    with staged(model_names=("echo", "small"), trained_conditions=("GPT4", "Math")) as both:
        yield both


@pytest.fixture
def stage(theatre: tuple[Served, Stage]) -> Stage:
    stage = theatre[1]
    stage.say()
    stage.asked.clear()
    return stage


@pytest.fixture
def visit(browser: Any, theatre: tuple[Served, Stage], stage: Stage) -> Iterator[Visit]:
    with visiting(browser, theatre[0].base_url) as visit:
        yield visit


def test_a_reply_streams_as_markdown_with_code_to_copy(visit: Visit, stage: Stage) -> None:
    code, table = "def f(x):\n    return sorted(x)", "| a | b |\n|---|--:|\n| 1 | 2 |\n"
    reply = f"# Sorting\n\nUse **sorted**:\n\n```python\n{code}\n```\n\n{table}"
    stage.say(reply, hold_after_tokens=20)
    asked = time.monotonic()
    visit.ask("How do I sort?")
    visit.until("document.querySelector('[data-testid=message][data-state=streaming] h2')")
    held = time.monotonic()
    assert "return" not in visit.last("content").inner_text()  # it grows
    visit.page.wait_for_timeout(200)
    held = time.monotonic() - held
    stage.release()
    visit.wait()
    took = time.monotonic() - asked
    assert visit.last().locator("h2").inner_text() == "Sorting"
    assert visit.last().locator("pre code .hljs-keyword").first.inner_text() == "def"
    assert visit.last().locator("td").all_inner_texts() == ["1", "2"]
    visit.last().locator("button[data-copy]").click()
    visit.until("document.querySelector('button[data-copy]').textContent === 'Copied'")
    assert visit.page.evaluate("navigator.clipboard.readText()") == code
    visit.last("copy-message").click()
    visit.until(f"navigator.clipboard.readText().then((text) => text === {json.dumps(reply)})")
    assert visit.last("finish-reason").get_attribute("data-reason") == "stop"
    counted = re.fullmatch(r"([\d,]+) tokens · ([\d,.]+) tokens/s", visit.last("meta").inner_text())
    assert counted
    assert counted[1] == str(len(reply) + 1)
    num_tokens = len(reply) + 1
    assert 0.9 * num_tokens / took < float(counted[2].replace(",", "")) < 1.1 * num_tokens / held


def test_escape_and_the_button_stop_a_reply_on_the_server_too(visit: Visit, stage: Stage) -> None:
    for number, press in enumerate(("Escape", "button")):
        stage.say("word " * 2000, delay_seconds=0.005)
        before = stage.num_aborted
        visit.ask(f"Go on {number}")
        visit.until("document.querySelector('[data-testid=message][data-state=streaming]')?.innerText.includes('word')")
        visit.page.keyboard.press("Escape") if press == "Escape" else visit.at("stop").click()
        visit.wait()
        assert visit.last("finish-reason").get_attribute("data-reason") == "stopped"
        wait_until(lambda: not stage.num_running)
        assert stage.num_aborted == before + 1
        text = visit.last("content").inner_text()
        assert 4 <= len(text) < 5000
    assert visit.at("send").count() == 1


def test_regenerate_draws_the_last_reply_again_and_can_be_undone(visit: Visit, stage: Stage) -> None:
    stage.say("first reply", "second reply")
    visit.reply_to("Ask once")
    assert visit.last("content").inner_text() == "first reply"
    visit.last("regenerate").click()
    visit.until("document.body.innerText.includes('second reply')")
    visit.wait()
    assert visit.at("message").count() == 2
    assert "first reply" not in visit.at("thread").inner_text()
    assert stage.asked[0][0] == stage.asked[1][0]
    visit.at("toast-undo").click()
    visit.until("document.body.innerText.includes('first reply')")


def test_an_edited_message_takes_the_place_of_what_followed(visit: Visit, stage: Stage) -> None:
    visit.reply_to("one")
    visit.reply_to("two")
    assert visit.at("message").count() == 4
    # No key can come between the click and the caret.
    assert visit.page.evaluate(
        """async () => {
            document.querySelector("[data-testid=edit]").click();
            for (let turn = 0; turn < 5; turn++) await null;
            return [document.activeElement.dataset.testid, document.activeElement.selectionStart];
        }"""
    ) == ["edit-input", 3]
    visit.at("edit-input").press("Escape")
    visit.has("edit-input", 0)
    visit.at("edit").first.click()
    visit.at("edit-input").fill("changed")
    visit.at("edit-save").click()
    visit.has("message", 2)
    visit.wait()
    assert visit.last("content").inner_text() == "changed"
    assert "two" not in stage.asked[-1][0]


def test_conversations_survive_a_reload_and_can_be_renamed_and_deleted(visit: Visit) -> None:
    visit.reply_to("About cats")
    visit.at("new-chat").click()
    visit.reply_to("About dogs")
    visit.has("conversation", 2)
    address = visit.page.url
    visit.saved("About dogs", times=3)  # as the title, the question and the reply
    visit.page.reload()
    visit.ready()
    assert visit.page.url == address
    assert visit.last("content").inner_text() == "About dogs"
    assert visit.at("conversation-open").all_inner_texts() == ["About dogs", "About cats"]
    visit.at("conversation-open").last.click()
    visit.until("document.querySelector('[data-testid=title]').innerText === 'About cats'")
    assert visit.last("content").inner_text() == "About cats"

    cats = visit.at("conversation").last
    cats.hover()
    cats.get_by_test_id("conversation-menu").click()
    visit.at("menu-rename").click()
    visit.at("rename-input").fill("Felines")
    visit.at("rename-input").press("Enter")
    visit.until("document.querySelector('[data-testid=title]').innerText === 'Felines'")

    dogs = visit.at("conversation").first
    dogs.hover()
    dogs.get_by_test_id("conversation-menu").click()
    visit.at("menu-delete").click()
    visit.has("conversation", 1)
    visit.at("toast-undo").click()
    visit.has("conversation", 2)
    visit.at("conversation-menu").first.click()
    visit.at("menu-delete").click()
    visit.has("conversation", 1)
    visit.page.reload()
    visit.ready()
    assert visit.at("conversation-open").all_inner_texts() == ["Felines"]


def test_settings_leave_the_browser_as_they_were_set(visit: Visit, stage: Stage) -> None:
    bodies: list[Any] = []
    visit.page.on(
        "request",
        lambda request: bodies.append(request.post_data_json) if request.url.endswith("/completions") else None,
    )
    visit.reply_to("Plain")
    assert bodies[0]["messages"] == [{"role": "user", "content": "Plain"}]
    assert not {"temperature", "top_p", "max_tokens", "seed", "condition"} & set(bodies[0])
    assert bodies[0]["stream"] is True

    visit.at("settings-open").click()
    visit.at("setting-system").fill("Answer in verse.")
    visit.at("setting-model").select_option("small")
    visit.at("setting-condition").select_option("Math")
    for name, value in (("temperature", "0.5"), ("top-p", "0.9"), ("max-tokens", "7"), ("seed", "42")):
        visit.at(f"setting-{name}").fill(value)
    visit.at("settings-close").click()
    visit.reply_to("With all of it")
    assert bodies[1]["messages"][0] == {"role": "system", "content": "Answer in verse."}
    told = {key: bodies[1][key] for key in ("model", "condition", "temperature", "top_p", "max_tokens", "seed")}
    assert told == {
        "model": "small", "condition": "Math", "temperature": 0.5, "top_p": 0.9, "max_tokens": 7, "seed": 42,
    }  # fmt: skip
    # And so it reached the engine.
    text, spec = stage.asked[-1]
    assert "Answer in verse." in text
    assert "Math" in text
    assert (spec.temperature, spec.top_p, spec.max_tokens, spec.seed) == (0.5, 0.9, 7, 42)

    visit.at("settings-open").click()
    visit.at("setting-temperature").fill("5")
    assert visit.at("setting-temperature").get_attribute("aria-invalid") == "true"
    visit.at("settings-reset").click()
    visit.at("settings-close").click()
    visit.reply_to("Plain again")
    assert not {"temperature", "top_p", "max_tokens", "seed", "condition"} & set(bodies[2])


def test_settings_for_new_chats_hold_after_a_reload(visit: Visit) -> None:
    visit.at("settings-open").click()
    visit.at("setting-temperature").fill("0.1")
    visit.at("settings-default").click()
    visit.at("settings-close").click()
    visit.page.reload()
    visit.ready()
    visit.at("settings-open").click()
    assert visit.at("setting-temperature").input_value() == "0.1"


def test_a_reply_cut_at_max_tokens_says_so_and_goes_on(visit: Visit, stage: Stage) -> None:
    visit.at("settings-open").click()
    visit.at("setting-max-tokens").fill("9")
    visit.at("settings-close").click()
    stage.say("One, two, three.", " three, four.")
    visit.reply_to("Count")
    assert visit.last("finish-reason").get_attribute("data-reason") == "length"
    assert "limit" in visit.last("finish-reason").inner_text()
    assert visit.last("content").inner_text() == "One, two,"
    visit.at("settings-open").click()
    visit.at("setting-max-tokens").fill("")
    visit.at("settings-close").click()
    visit.last("continue").click()
    visit.until("document.body.innerText.includes('three, four.')")
    visit.wait()
    assert visit.last("content").inner_text() == "One, two, three, four."
    assert visit.last("finish-reason").get_attribute("data-reason") == "stop"
    assert visit.last("continue").count() == 0
    assert visit.at("message").count() == 2
    # The server was asked to go on with the reply, not to begin another.
    assert stage.asked[-1][0].endswith("One, two,")


def test_keys_send_break_lines_stop_and_find(visit: Visit) -> None:
    composer = visit.at("composer")
    composer.focus()
    visit.page.keyboard.type("first line")
    visit.page.keyboard.press("Shift+Enter")
    visit.page.keyboard.type("second line")
    assert composer.input_value() == "first line\nsecond line"
    visit.page.keyboard.press("Enter")
    visit.wait()
    assert visit.at("content").first.inner_text() == "first line\nsecond line"
    assert composer.input_value() == ""
    visit.page.keyboard.press("Enter")  # nothing to send
    assert visit.at("message").count() == 2
    visit.at("new-chat").click()
    visit.reply_to("Another matter")
    visit.page.keyboard.press("Control+k")
    visit.at("palette-input").fill("first line")
    visit.page.keyboard.press("Enter")
    visit.until("document.querySelector('[data-testid=title]').innerText.startsWith('first line')")
    visit.page.keyboard.press("Control+k")
    visit.until("document.activeElement.dataset.testid === 'palette-input'")
    visit.page.keyboard.press("Escape")
    visit.has("palette", 0)


def test_every_control_is_reached_by_the_tab_key_and_named(visit: Visit) -> None:
    visit.reply_to("Hello")
    reached: set[str] = set()
    for _ in range(40):
        visit.page.keyboard.press("Tab")
        found = visit.page.evaluate(
            """() => {
                const it = document.activeElement;
                const ring = getComputedStyle(it);
                const seen = ring.outlineStyle !== "none" || ring.boxShadow !== "none";
                return [it.dataset?.testid ?? "", it.ariaLabel || it.innerText || it.title || "", seen];
            }"""
        )
        if found[0]:
            reached.add(found[0])
            assert found[1] or found[0] in ("composer", "import-input"), found
    wanted = {"new-chat", "conversation-open", "conversation-menu", "import", "export-all", "theme", "settings-open"}
    wanted |= {"edit", "copy-message", "regenerate", "composer"}
    assert wanted <= reached


def test_a_screen_reader_is_told_of_a_reply(visit: Visit, stage: Stage) -> None:
    live = visit.at("live")
    assert live.get_attribute("aria-live") == "polite"
    stage.say("word " * 40, hold_after_tokens=20)
    visit.ask("Hello")
    visit.until("document.querySelector('[data-testid=live]').innerText.includes('Writing')")
    stage.release()
    visit.wait()
    visit.until("document.querySelector('[data-testid=live]').innerText.includes('complete')")


def test_two_replies_are_written_at_once_in_two_conversations(visit: Visit, stage: Stage) -> None:
    stage.say("left " * 200, "right " * 20, delay_seconds=0.002)
    visit.ask("First")
    visit.until("document.body.innerText.includes('left')")
    visit.at("new-chat").click()
    visit.reply_to("Second")
    assert "right" in visit.last("content").inner_text()
    visit.at("conversation-open").get_by_text("First").click()
    visit.until("document.body.innerText.includes('left')")
    visit.wait()
    assert visit.last("content").inner_text().count("left") == 200
    assert visit.last("finish-reason").get_attribute("data-reason") == "stop"


def test_behind_a_prefix_all_is_found_relative_to_the_page(browser: Any) -> None:
    with (
        staged(root_path="/llm") as (served, _),
        visiting(browser, served.base_url, path="/llm") as visit,
    ):
        visit.reply_to("Hello")
        assert visit.last("content").inner_text() == "Hello"
        assert all(url.startswith(f"{served.base_url}/llm") for url in visit.asked)


def test_a_question_of_many_lines_is_followed_to_its_reply(visit: Visit, stage: Stage) -> None:
    distance = """() => { const it = document.querySelector("[data-testid=thread]");
        return it.scrollHeight - it.clientHeight - it.scrollTop; }"""
    stage.say("line\n\n" * 40, "the end")
    visit.reply_to("Fill the page")
    visit.reply_to("a line\n" * 30)  # the composer grows with it, and shrinks again
    visit.until(f"({distance})() < 40")
    visit.has("jump", 0)


def test_a_draft_and_the_place_of_reading_outlive_a_reload(visit: Visit, stage: Stage) -> None:
    top = "document.querySelector('[data-testid=thread]').scrollTop"
    stage.say("line\n\n" * 60)
    visit.reply_to("A long one")
    visit.at("composer").fill("not sent yet")
    visit.page.evaluate(f"{top} -= 400")
    visit.at("jump").wait_for()
    place = visit.page.evaluate(top)
    assert place > 100
    visit.at("new-chat").click()
    visit.reply_to("Another one")
    visit.at("composer").fill("this neither")
    visit.at("conversation-open").get_by_text("A long one").click()
    visit.until(f"Math.abs({top} - {place}) < 2")
    assert visit.at("composer").input_value() == "not sent yet"
    visit.page.reload()
    visit.ready()
    visit.until(f"Math.abs({top} - {place}) < 2")
    assert visit.at("composer").input_value() == "not sent yet"
    visit.at("conversation-open").get_by_text("Another one").click()
    visit.until("document.querySelector('[data-testid=composer]').value === 'this neither'")
    visit.at("new-chat").click()
    visit.until("document.querySelector('[data-testid=composer]').value === ''")


def test_the_last_question_is_edited_from_an_empty_box_with_the_arrow(visit: Visit) -> None:
    visit.reply_to("one")
    visit.reply_to("two")
    visit.at("composer").fill("a draft")
    visit.at("composer").press("ArrowUp")
    assert visit.at("edit-input").count() == 0
    visit.at("composer").fill("")
    visit.at("composer").press("ArrowUp")
    visit.at("edit-input").wait_for()
    assert visit.at("edit-input").input_value() == "two"
    visit.page.keyboard.type(" and more")
    visit.page.keyboard.press("Enter")
    visit.until("document.body.innerText.includes('two and more')")
    visit.wait()
    assert visit.at("message").count() == 4


# Keeps storage busy until it is let go: nothing is saved meanwhile, however slow this machine is.
HOLD_STORAGE = """() => new Promise((held) => {
    const opening = indexedDB.open("ochatctl");
    opening.onsuccess = () => {
        const transaction = opening.result.transaction(["conversations", "summaries"], "readwrite");
        const store = transaction.objectStore("conversations");
        const again = () => { store.count().onsuccess = () => { held(); if (!window.__letGo) again(); }; };
        again();
    };
})"""
STORED = """(words) => new Promise((told) => {
    const opening = indexedDB.open("ochatctl");
    opening.onsuccess = () => {
        const asking = opening.result.transaction("conversations").objectStore("conversations").getAll();
        asking.onsuccess = () => told(words.every((word) => asking.result.some(({ conversation: { messages } }) =>
            messages.some(({ content }) => content === word) && messages.at(-1).finishReason === "stop")));
    };
})"""


def test_what_two_tabs_write_at_once_is_kept_twice(visit: Visit, stage: Stage) -> None:
    visit.reply_to("first")
    visit.until(STORED, ["first"])
    other = visit.page.context.new_page()
    other.goto(visit.page.url)
    other.locator("[data-testid=app][data-state=ready]").wait_for()
    other.evaluate(HOLD_STORAGE)
    # Before either hears of the other.
    for page, text in ((visit.page, "from one"), (other, "from two")):
        page.get_by_test_id("composer").fill(text)
        page.get_by_test_id("send").click()
    other.evaluate("window.__letGo = true")
    visit.has("conversation", 2)
    visit.until(STORED, ["from one", "from two"])
    assert visit.page.url != other.url
    for _ in range(2):
        assert "from one" in visit.at("thread").inner_text()
        assert "from two" in other.get_by_test_id("thread").inner_text()
        for page in (visit.page, other):
            page.reload()
            page.locator("[data-testid=app][data-state=ready]").wait_for()


def test_a_long_chat_is_drawn_whole_from_its_end(visit: Visit, tmp_path: Path) -> None:
    turns = [{"role": ("user", "assistant")[number % 2], "content": f"Turn {number}"} for number in range(150)]
    path = tmp_path / "long.json"
    path.write_text(json.dumps({"messages": turns}), encoding="utf-8")
    visit.at("import-input").set_input_files(path)
    visit.has("message", 150)
    assert visit.at("content").all_inner_texts() == [turn["content"] for turn in turns]
    visit.until(
        """(() => { const it = document.querySelector("[data-testid=thread]");
                    return it.scrollHeight - it.clientHeight - it.scrollTop < 40; })()"""
    )
