"""The report page, opened in Chromium from a file."""

from pathlib import Path
from typing import Any

import pytest
from browser_for_tests import chromium

from ochatctl.bench.export import to_html
from ochatctl.bench.results import Line, Question, Result

pytestmark = pytest.mark.slow
EVIL = "</script><script>window.ran = 1</script><img src=x onerror='window.ran = 1'>"


def result(model: str, shift: float) -> Result:
    questions = tuple(
        Question(
            id=str(number),
            group=("writing", "math", "stem")[number % 3],
            scores={"1": 1.0 + number % 7 + shift},
            status="scored",
            transcript=(
                Line(role="user", text=f"question {number} {EVIL}"),
                Line(role="assistant", text=f"answer {number} {EVIL}"),
                Line(role="judge", text="zebra [[5]]" if number == 205 else "[[5]]"),
            ),
        )
        for number in range(240)
    )
    return Result(suite="mtbench", model=model, measure="score", unit="points", judge="a", questions=questions)


def test_a_report_is_searched_sorted_and_read_and_nothing_in_it_runs(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(to_html([result("ours", 0), result("theirs", 1.5)]), encoding="utf-8")
    with chromium() as browser:
        page = browser.new_page()
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(request.url) if request.url != path.as_uri() else None)
        page.goto(path.as_uri())
        assert "This is more than noise" in page.inner_text("body")
        assert page.locator("svg polygon").count() == 4 + 2
        assert page.locator("details").count() == 100
        page.get_by_role("button", name="Show more").click()
        assert page.locator("details").count() == 200
        search(page, "zebra", 1)
        page.locator("summary").click()
        assert page.locator(".line.judge").inner_text().endswith("zebra [[5]]")
        assert EVIL in page.locator(".line.assistant").inner_text()
        search(page, "", 100)
        page.get_by_label("Category", exact=True).select_option("math")
        assert page.get_by_role("status").inner_text() == "80 of 240 questions"
        page.get_by_label("Order", exact=True).select_option("best")
        assert page.locator(".score").first.inner_text() == "7.0"
        page.get_by_label("Run", exact=True).select_option("1")
        assert page.locator(".score").first.inner_text() == "8.5"
        assert page.evaluate("window.ran") is None
        assert said == []


def search(page: Any, words: str, num_found: int) -> None:
    page.get_by_label("Search", exact=True).fill(words)
    assert page.locator("details").count() == num_found
