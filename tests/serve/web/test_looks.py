"""How the page looks and moves: no violation of axe, nothing jumps while a reply grows, long replies stay smooth.

`OCHATCTL_SCREENSHOTS=FOLDER` keeps the screenshots.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from browser_for_tests import DESKTOP, PHONE, Stage, Visit, staged, visiting
from serving_for_tests import Served

pytestmark = pytest.mark.slow
_AXE = Path(__file__).parents[3] / "web" / "node_modules" / "axe-core" / "axe.min.js"
REPLY = """A hash map keeps its items in **buckets**, chosen by a hash of the key. Three things decide how fast it is:

1. the *hash function*: equal keys, equal hashes
2. the load factor, usually below `0.75`
3. what happens when two keys meet in one bucket

```python
class HashMap:
    def __init__(self, num_buckets: int = 8) -> None:
        self.buckets = [[] for _ in range(num_buckets)]

    def put(self, key, value):
        bucket = self.buckets[hash(key) % len(self.buckets)]
        for item in bucket:
            if item[0] == key:
                item[1] = value  # already there
                return
        bucket.append([key, value])
```

| operation | usual | worst |
|:----------|------:|------:|
| look up   |  O(1) |  O(n) |
| insert    |  O(1) |  O(n) |

> In practice the worst case is an attack, not an accident.

- [x] chaining, as above
- [ ] open addressing: see [the paper](https://example.org/hash)

### And then?

Ask me about resizing.
"""


@pytest.fixture(scope="module")
def theatre() -> Iterator[tuple[Served, Stage]]:
    with staged("openchat_v3.2_mistral", model_names=("openchat_3.5",)) as both:
        yield both


@pytest.fixture(scope="module")
def axe() -> str:
    if not _AXE.is_file():
        pytest.skip("no axe-core: `npm ci` in `web`")
    return _AXE.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(os.environ.get("OCHATCTL_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def empty(visit: Visit, stage: Stage) -> None:
    visit.at("empty").wait_for()


def chat(visit: Visit, stage: Stage) -> None:
    stage.say(REPLY)
    visit.reply_to("How does a hash map work?")
    visit.page.mouse.move(0, 0)


def streaming(visit: Visit, stage: Stage) -> None:
    stage.say(REPLY, delay_seconds=0.02)
    visit.ask("And once more, please")
    visit.until("document.querySelector('[data-state=streaming]')?.innerText.includes('decide how fast')")


def stopped(visit: Visit, stage: Stage) -> None:
    visit.page.keyboard.press("Escape")
    visit.wait()


def fault(visit: Visit, stage: Stage) -> None:
    stage.say("Half an ans", fail_after_tokens=8)
    visit.ask("And what goes wrong?")
    visit.wait("error")


def editing(visit: Visit, stage: Stage) -> None:
    visit.at("edit").first.click()
    visit.at("edit-input").wait_for()


def settings(visit: Visit, stage: Stage) -> None:
    visit.page.keyboard.press("Escape")
    visit.at("settings-open").click()
    visit.at("setting-system").fill("You are a patient teacher.")
    visit.at("setting-temperature").fill("9")


def palette(visit: Visit, stage: Stage) -> None:
    visit.at("settings-close").click()
    visit.page.keyboard.press("Control+k")
    visit.at("palette-input").fill("h")


def shortcuts(visit: Visit, stage: Stage) -> None:
    visit.page.keyboard.press("Escape")
    visit.page.keyboard.press("Control+/")
    visit.at("shortcuts-dialog").wait_for()


def menu(visit: Visit, stage: Stage) -> None:
    visit.at("shortcuts-close").click()
    if visit.at("sidebar-open").is_visible():
        visit.at("sidebar-open").click()
    visit.at("conversation-menu").first.click()
    visit.at("menu-delete").wait_for()


STATES: tuple[Callable[[Visit, Stage], None], ...] = (
    empty, chat, streaming, stopped, fault, editing, settings, palette, shortcuts, menu,
)  # fmt: skip


@pytest.mark.parametrize(
    ("look", "scheme", "viewport"),
    [("light", "light", DESKTOP), ("dark", "dark", DESKTOP), ("phone", "light", PHONE), ("phone-dark", "dark", PHONE)],
)
def test_axe_finds_nothing_in_any_state(
    browser: Any, theatre: tuple[Served, Stage], axe: str, gallery: Path, look: str, scheme: str, viewport: Any
) -> None:
    served, stage = theatre
    found: list[str] = []
    with visiting(browser, served.base_url, color_scheme=scheme, viewport=viewport) as visit:
        visit.page.evaluate(axe)
        for number, state in enumerate(STATES):
            state(visit, stage)
            visit.page.screenshot(path=gallery / f"{look}-{number}-{state.__name__}.png")
            told = visit.page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
            assert len(told["passes"]) > 10
            found += [
                f"{state.__name__}: {each['id']}: {node['html'][:160]} {node['failureSummary'][:300]}"
                for each in told["violations"]
                for node in each["nodes"]
            ]
            assert visit.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), state.__name__
    assert found == []


def test_axe_finds_nothing_where_a_key_is_asked_for(browser: Any, axe: str, gallery: Path) -> None:
    with staged(api_keys=("sk-1",)) as (served, _):
        for scheme in ("light", "dark"):
            with visiting(browser, served.base_url, wait=False, color_scheme=scheme, allowed=("401",)) as visit:
                visit.at("key-dialog").wait_for()
                visit.at("key-input").fill("sk-2")
                visit.at("key-save").click()
                visit.until("document.querySelector('[data-testid=key-error]').innerText !== ''")
                visit.page.evaluate(axe)
                told = visit.page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
                visit.page.screenshot(path=gallery / f"{scheme}-key.png")
                assert [(each["id"], each["nodes"][0]["html"]) for each in told["violations"]] == []


def test_the_chosen_colours_hold_over_a_reload_and_go_before_the_systems(
    browser: Any, theatre: tuple[Served, Stage]
) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    with visiting(browser, theatre[0].base_url, color_scheme="light") as visit:
        seen = [visit.page.evaluate(ground)]
        for _ in range(3):  # light, dark, the system's
            visit.at("theme").click()
            visit.page.reload()
            visit.ready()
            seen.append(visit.page.evaluate(ground))
        assert seen[0] == seen[1] == seen[3]
        assert seen[2] != seen[0]
        visit.page.emulate_media(color_scheme="dark")
        visit.until(f"{ground} === '{seen[2]}'")


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_nothing_jumps_while_a_reply_grows(browser: Any, theatre: tuple[Served, Stage], viewport: Any) -> None:
    served, stage = theatre
    boxes = """() => ["composer", "title", "settings-open"].map((name) => {
        const { x, y, width, height } = document.querySelector(`[data-testid=${name}]`).getBoundingClientRect();
        return [x, y, width, height].map(Math.round).join();
    }).join(" ")"""
    with visiting(browser, served.base_url, viewport=viewport, reduced_motion="no-preference") as visit:
        visit.page.wait_for_timeout(600)  # what follows an input at once is not counted by the browser
        stage.say(REPLY * 2, delay_seconds=0.0015)
        visit.ask("How does a hash map work?")
        visit.until("document.querySelector('[data-state=streaming]')?.innerText.includes('buckets')")
        began = visit.page.evaluate("performance.now()")
        seen = set()
        while visit.last().get_attribute("data-state") == "streaming":
            seen.add(visit.page.evaluate(boxes))
            visit.page.wait_for_timeout(30)
        visit.page.wait_for_timeout(300)
        seen.add(visit.page.evaluate(boxes))
        assert len(seen) == 1
        shifts = visit.page.evaluate("window.__shifts.filter(([at]) => at > %f)" % (began + 500))
        assert visit.page.evaluate("performance.now()") - began > 1_500  # there was time for some
        assert sum(value for _, value, _ in shifts) < 0.01, shifts
        # The end of the reply is in sight.
        assert visit.page.evaluate(
            """() => { const it = document.querySelector("[data-testid=thread]");
                       return it.scrollHeight - it.clientHeight - it.scrollTop < 40; }"""
        )


def test_who_scrolls_up_is_left_there(browser: Any, theatre: tuple[Served, Stage]) -> None:
    served, stage = theatre
    with visiting(browser, served.base_url) as visit:
        stage.say(REPLY * 2, delay_seconds=0.001)
        visit.ask("How does a hash map work?")
        visit.until("document.querySelector('[data-state=streaming]')?.innerText.includes('attack')")
        visit.page.mouse.move(700, 400)
        visit.page.mouse.wheel(0, -400)
        visit.at("jump").wait_for()
        at = visit.page.evaluate("document.querySelector('[data-testid=thread]').scrollTop")
        visit.wait()
        assert abs(visit.page.evaluate("document.querySelector('[data-testid=thread]').scrollTop") - at) < 2
        visit.at("jump").click()
        visit.has("jump", 0)


_COUNT_FRAMES = """() => {
    cancelAnimationFrame(window.__frame);
    window.__frames = [];
    const count = (at) => { window.__frames.push(at); window.__frame = requestAnimationFrame(count); };
    window.__frame = requestAnimationFrame(count);
}"""
_FRAME_GAPS = "window.__frames.slice(1).map((at, index) => at - window.__frames[index])"


def test_a_reply_of_ten_thousand_tokens_stays_smooth(browser: Any) -> None:
    """Units: CPU seconds of the page's main thread, which other work on this machine does not lengthen."""
    text = REPLY * 42  # of a model's tokens, about four letters each
    with (
        staged("openchat_v3.2_mistral", context_tokens=65_536, stream_period=16) as (served, stage),
        visiting(browser, served.base_url) as visit,
    ):
        cdp = visit.page.context.new_cdp_session(visit.page)
        cdp.send("Performance.enable", {"timeDomain": "threadTicks"})

        def cpu_seconds() -> float:
            told = cdp.send("Performance.getMetrics")["metrics"]
            return float(next(each["value"] for each in told if each["name"] == "TaskDuration"))

        # What a frame takes where the page does nothing; on a busy machine that is more than a sixtieth of a second.
        visit.page.evaluate(_COUNT_FRAMES)
        visit.page.wait_for_timeout(400)
        idle = median(visit.page.evaluate(_FRAME_GAPS))
        took: list[float] = []
        for part in (text[: len(text) // 4], text):
            stage.say(part)
            visit.at("new-chat").click()
            visit.page.evaluate(_COUNT_FRAMES)
            before = cpu_seconds()
            visit.ask("Tell me everything")
            visit.until("document.querySelector('[data-role=assistant]')")
            visit.wait(timeout_seconds=120)
            took.append(cpu_seconds() - before)
        gaps = visit.page.evaluate(_FRAME_GAPS)
        assert len(visit.last("content").inner_text()) > 0.8 * len(text) > 30_000
        # Drawn once: about 0.5 s. A page that draws the whole with each piece takes more than a minute.
        assert took[1] < 4
        assert took[1] < 8 * took[0] + 0.2
        # Most frames come in time while it streams, a third of a second on a fast machine.
        assert len(gaps) > 8
        assert median(gaps) < max(40, 2.5 * idle)
