"""Export and import, through the page: what `data clean` reads back, and what is wrong with a file in words."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser_for_tests import Stage, Visit, staged, visiting
from serving_for_tests import Served
from typer.testing import CliRunner

from ochatctl.chat.conversation import read_conversations
from ochatctl.cli.app import app
from ochatctl.cli.commands import register

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def theatre() -> Iterator[tuple[Served, Stage]]:
    with staged() as both:
        yield both


def save(visit: Visit, folder: Path, click: Any) -> Path:
    with visit.page.expect_download() as downloading:
        click()
    path = folder / downloading.value.suggested_filename
    downloading.value.save_as(path)
    return path


def write_chats(visit: Visit, stage: Stage) -> None:
    stage.say("Ein **Reim** mit ü und 🌍\n\n```js\nlet x;\n```", "Mehr")
    visit.at("settings-open").click()
    visit.at("setting-system").fill("Sprich in Reimen.")
    visit.at("settings-close").click()
    visit.reply_to("Sag etwas: <b>ja</b>")
    visit.reply_to("Und mehr")
    visit.at("new-chat").click()
    visit.reply_to("A second chat")
    visit.has("conversation", 2)


def test_what_is_exported_is_cleaned_without_a_loss_and_imported_again(
    browser: Any, theatre: tuple[Served, Stage], tmp_path: Path
) -> None:
    served, stage = theatre
    with visiting(browser, served.base_url) as visit:
        write_chats(visit, stage)
        exported = save(visit, tmp_path, lambda: visit.at("export-all").click())
        visit.at("conversation-menu").last.click()
        one = save(visit, tmp_path, lambda: visit.at("menu-export-openai").click())
        visit.at("conversation-menu").last.click()
        other = save(visit, tmp_path, lambda: visit.at("menu-export-sharegpt").click())
    register(app)
    kept: dict[str, Any] = {}
    for path in (exported, one, other):
        out = tmp_path / f"{path.stem}.clean.jsonl"
        done = CliRunner().invoke(app, ["data", "clean", str(path), "--rules", "plain", "--out", str(out)])
        assert done.exit_code == 0, done.output
        kept[path.name] = list(read_conversations(out))
    first, second = sorted(kept[exported.name], key=lambda each: -len(each.messages))
    assert first.system == "Sprich in Reimen."
    assert [(each.role, each.content) for each in first.messages] == [
        ("user", "Sag etwas: <b>ja</b>"),
        ("assistant", "Ein **Reim** mit ü und 🌍\n\n```js\nlet x;\n```"),
        ("user", "Und mehr"),
        ("assistant", "Mehr"),
    ]
    assert [each.content for each in second.messages] == ["A second chat"] * 2
    for path in (one, other):
        (again,) = kept[path.name]
        assert (again.system, again.messages) == (first.system, first.messages)
    messages = json.loads(one.read_text(encoding="utf-8"))["messages"]
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user", "assistant"]

    with visiting(browser, served.base_url) as visit:  # a fresh profile
        visit.has("conversation", 0)
        visit.at("import-input").set_input_files(exported)
        visit.has("conversation", 2)
        visit.at("conversation-open").get_by_text("Sag etwas").click()
        visit.has("message", 4)
        assert visit.page.locator("pre code").inner_text().strip() == "let x;"
        visit.at("settings-open").click()
        assert visit.at("setting-system").input_value() == "Sprich in Reimen."
        visit.at("settings-close").click()
        # Imported twice, nothing is overwritten.
        visit.at("import-input").set_input_files([one, other])
        visit.has("conversation", 4)
        visit.page.reload()
        visit.ready()
        visit.has("conversation", 4)


def test_a_file_that_is_none_is_told_in_words(browser: Any, theatre: tuple[Served, Stage], tmp_path: Path) -> None:
    table = {
        "broken.json": "{",
        "picture.json": "\x89PNG",
        "tool.json": '{"messages": [{"role": "tool", "content": "x"}]}',
    }
    with visiting(browser, theatre[0].base_url) as visit:
        for number, (name, text) in enumerate(table.items(), 1):
            path = tmp_path / name
            path.write_text(text, encoding="utf-8")
            visit.at("import-input").set_input_files(path)
            visit.has("toast", number)
            assert name in visit.at("toast").last.inner_text()
        assert visit.at("conversation").count() == 0


def test_files_dropped_on_the_page_are_imported(browser: Any, theatre: tuple[Served, Stage]) -> None:
    drop = """(name) => {
        const data = new DataTransfer();
        const chat = { messages: [{ role: "user", content: "Hello" }, { role: "assistant", content: "Hi" }] };
        data.items.add(new File([JSON.stringify(chat)], "dropped.json"));
        const thread = document.querySelector("[data-testid=thread]");
        const event = new DragEvent(name, { dataTransfer: data, bubbles: true, cancelable: true });
        return !thread.dispatchEvent(event);  // true: the browser does not go to the file
    }"""
    with visiting(browser, theatre[0].base_url) as visit:
        assert visit.page.evaluate(drop, "dragover")
        visit.at("drop").wait_for()
        assert visit.page.evaluate(drop, "drop")
        visit.has("drop", 0)
        visit.has("message", 2)
        assert visit.last("content").inner_text() == "Hi"
