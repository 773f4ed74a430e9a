"""What goes wrong is said in words, nothing that was written is lost, and a key is kept where it belongs."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser_for_tests import Stage, staged, visiting
from serving_for_tests import Served

pytestmark = pytest.mark.slow
KEY = "sk-my-own-key"


@pytest.fixture(scope="module")
def theatre() -> Iterator[tuple[Served, Stage]]:
    with staged() as both:
        yield both


@pytest.fixture(scope="module")
def locked() -> Iterator[Served]:
    with staged(api_keys=(KEY,)) as (served, _):
        yield served


def test_a_key_is_asked_for_checked_and_kept_for_the_tab_alone(browser: Any, locked: Served) -> None:
    with visiting(browser, locked.base_url, wait=False, allowed=("401",)) as visit:
        sent: list[str] = []
        visit.page.on(
            "request", lambda asked: "/v1/" in asked.url and sent.append(asked.headers.get("authorization", ""))
        )
        visit.at("key-dialog").wait_for()
        visit.at("key-input").fill("sk-wrong")
        visit.at("key-save").click()
        visit.until("document.querySelector('[data-testid=key-error]').innerText !== ''")
        assert visit.at("key-input").get_attribute("aria-invalid") == "true"
        visit.at("key-input").fill(KEY)
        visit.at("key-save").click()
        visit.has("key-dialog", 0)
        visit.reply_to("Hello")
        assert sent[-1] == f"Bearer {KEY}"
        assert visit.page.evaluate("JSON.stringify(localStorage)").count(KEY) == 0
        visit.page.reload()
        visit.ready()
        visit.reply_to("The tab still knows it")
        assert not any(KEY in url for url in visit.asked)
        assert KEY not in visit.page.content()
        assert KEY not in visit.page.url
        # Another tab of the same browser does not.
        other = visit.page.context.new_page()
        other.goto("/")
        other.get_by_test_id("key-dialog").wait_for()
        other.close()


def test_a_key_is_stored_only_on_request_and_forgotten_on_request(browser: Any, locked: Served) -> None:
    with visiting(browser, locked.base_url, wait=False, allowed=("401",)) as visit:
        visit.at("key-input").fill(KEY)
        visit.at("key-remember").check()
        visit.at("key-save").click()
        visit.has("key-dialog", 0)
        assert KEY in visit.page.evaluate("JSON.stringify(localStorage)")
        other = visit.page.context.new_page()
        other.goto("/")
        other.locator("[data-testid=app][data-state=ready]").wait_for()
        assert other.get_by_test_id("key-dialog").count() == 0
        other.close()
        visit.at("settings-open").click()
        visit.at("key-forget").click()
        visit.at("key-dialog").wait_for()
        stored = "JSON.stringify(localStorage) + JSON.stringify(sessionStorage)"
        assert KEY not in visit.page.evaluate(stored)


def test_a_question_asked_before_the_key_is_answered_after_it(browser: Any, locked: Served) -> None:
    with visiting(browser, locked.base_url, wait=False, allowed=("401",)) as visit:
        visit.at("key-cancel").click()
        visit.ask("Anybody there?")
        visit.at("key-dialog").wait_for()
        visit.at("key-input").fill(KEY)
        visit.at("key-save").click()
        visit.has("key-dialog", 0)
        visit.wait()
        assert visit.last("content").inner_text() == "Anybody there?"


def test_too_many_requests_are_told_with_the_time_to_wait(browser: Any) -> None:
    with (
        staged(requests_per_minute=1) as (served, _),
        visiting(browser, served.base_url, allowed=("429",)) as visit,
    ):
        visit.reply_to("One")
        visit.ask("Two")
        visit.wait("error")
        words = visit.last("error").inner_text()
        assert "1 request a minute" in words
        assert "Try again" in words
        assert visit.at("content").nth(2).inner_text() == "Two"


def test_a_dead_engine_is_told_and_tried_again(browser: Any, theatre: tuple[Served, Stage]) -> None:
    served, stage = theatre
    with visiting(browser, served.base_url, allowed=("503",)) as visit:
        stage.die()
        visit.ask("Hello")
        visit.wait("error")
        assert "engine" in visit.last("error").inner_text().lower()
        stage.die(False)
        visit.last("retry").click()
        visit.wait()
        assert visit.last("content").inner_text() == "Hello"
        assert visit.at("error").count() == 0


def test_an_error_amid_a_stream_keeps_what_had_come_and_goes_on(browser: Any, theatre: tuple[Served, Stage]) -> None:
    served, stage = theatre
    stage.say("Half of an answer", fail_after_tokens=4)
    with visiting(browser, served.base_url) as visit:
        visit.ask("Hello")
        visit.wait("error")
        assert visit.last("content").inner_text() == "Half"
        assert "kept" in visit.last("error").inner_text()
        stage.say(" of an answer")
        visit.last("continue").click()
        visit.wait()
        assert visit.last("content").inner_text() == "Half of an answer"


def test_a_prompt_beyond_the_context_is_told_in_words(browser: Any, theatre: tuple[Served, Stage]) -> None:
    served, _ = theatre
    with visiting(browser, served.base_url, allowed=("400",)) as visit:
        visit.ask("x" * 33_000)
        visit.wait("error")
        assert "context" in visit.last("error").inner_text()


def test_a_server_killed_amid_a_reply_is_told_and_found_again(browser: Any, tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "scripted_server_for_tests.py"
    told = json.dumps({"echo": {"delay_seconds": 0.01}})
    with subprocess.Popen([sys.executable, str(script), told], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            origin = f"http://127.0.0.1:{int(server.stdout.readline())}"
            allowed = ("net::ERR_",)
            with visiting(browser, origin, allowed=allowed) as visit:
                visit.ask("word " * 300)
                visit.until(
                    "document.querySelector('[data-role=assistant][data-state=streaming]')?.innerText.includes('word')"
                )
                server.send_signal(signal.SIGKILL)
                visit.wait("error")
                assert "connection" in visit.last("error").inner_text().lower()
                assert visit.last("content").inner_text().startswith("word")
                visit.ask("Still there?")
                visit.wait("error")
                assert "cannot be reached" in visit.last("error").inner_text()
                visit.at("banner").wait_for()
                # What was asked and answered so far outlives the server: it is the browser's.
                assert visit.at("conversation").count() == 1
        finally:
            server.kill()


def test_an_interrupted_reply_can_be_gone_on_with_after_a_reload(browser: Any, theatre: tuple[Served, Stage]) -> None:
    served, stage = theatre
    stage.say("A long answer " * 100, hold_after_tokens=50)
    with visiting(browser, served.base_url) as visit:
        visit.ask("Go")
        visit.until("document.body.innerText.includes('A long answer A long')")
        visit.saved("A long answer A long")
        visit.page.reload()
        visit.ready()
        assert "A long answer" in visit.last("content").inner_text()
        visit.until("![...document.querySelectorAll('[data-state=streaming]')].length")
        stage.say("and its end.")
        visit.last("continue").click()
        visit.wait()
        assert visit.last("content").inner_text().endswith("and its end.")


def test_without_storage_the_page_says_so_and_works(browser: Any, theatre: tuple[Served, Stage]) -> None:
    served, _ = theatre
    with visiting(browser, served.base_url, wait=False) as visit:
        visit.page.context.add_init_script(
            """const get = () => { throw new DOMException("denied", "SecurityError"); };
            for (const name of ["localStorage", "sessionStorage", "indexedDB"])
              Object.defineProperty(window, name, { get });"""
        )
        visit.page.reload()
        visit.ready()
        visit.reply_to("Hello")
        assert visit.last("content").inner_text() == "Hello"
        assert "cannot be kept" in visit.at("banner").inner_text()
