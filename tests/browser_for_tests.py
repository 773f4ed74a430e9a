"""A real browser that looks at the chat page, and an engine that says what a test wants."""

import asyncio
import contextlib
import shutil
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from gated_engine_for_tests import GatedEngine
from serving_for_tests import Served, byte_tokenizer, serving

from ochatctl.chat.families import get_family
from ochatctl.engine.base import Delta, Engine, SamplingSpec
from ochatctl.engine.echo import EchoEngine

_FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1280, "height": 800}
# What the browser refuses is kept where a test finds it, before a line of the page runs.
_WATCH = """
window.__refused = [];
document.addEventListener("securitypolicyviolation", (event) => {
  window.__refused.push(`${event.effectiveDirective} ${event.blockedURI} ${event.sourceFile}`);
});
window.__shifts = [];
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) {
    const moved = entry.sources.map(({ node, previousRect: from, currentRect: to }) =>
      `${(node?.outerHTML ?? node?.data ?? "").slice(0, 90)} ${from.x},${from.y} to ${to.x},${to.y}`);
    if (!entry.hadRecentInput) window.__shifts.push([entry.startTime, entry.value, moved]);
  }
}).observe({ type: "layout-shift", buffered: true });
window.__longTasks = [];
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) window.__longTasks.push([entry.startTime, entry.duration]);
}).observe({ type: "longtask", buffered: true });
"""


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """Start the system's Chromium, headless; skip where it, or Playwright, is missing."""
    playwright = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium: `apt-get install chromium`")
    with playwright.sync_playwright() as api:
        browser = api.chromium.launch(executable_path=path, args=list(_FLAGS))
        yield browser
        browser.close()


class Stage:
    """An engine whose next answers a test sets: echo engines, one an answer."""

    name = "echo"
    unsupported: frozenset[str] = frozenset({"json_schema"})

    def __init__(self, family_name: str, *, context_tokens: int) -> None:
        self.context_tokens = context_tokens
        self._tokenizer = byte_tokenizer(get_family(family_name))
        self._answers: list[Engine] = []
        self._is_held = False
        self._dead = False
        # What it was asked for, in order: the prompt's text and the spec.
        self.asked: list[tuple[str, SamplingSpec]] = []
        self.num_running = 0
        self.num_aborted = 0
        self.progress = 0

    def say(
        self,
        *texts: str,
        delay_seconds: float = 0.0,
        fail_after_tokens: int | None = None,
        hold_after_tokens: int | None = None,
    ) -> None:
        """Set the next answers; after the last, questions are echoed again. `release` lets what is held go on."""
        self._is_held = hold_after_tokens is not None
        self._answers = [
            GatedEngine(
                EchoEngine(
                    self._tokenizer,
                    context_tokens=self.context_tokens,
                    reply=lambda _, text=text: self._tokenizer.encode_text(text),
                    delay_seconds=delay_seconds,
                    fail_after_tokens=fail_after_tokens,
                ),
                lambda number: not self._is_held or number <= (hold_after_tokens or 0),
            )
            for text in texts
        ]

    def release(self) -> None:
        """Let an answer go on that was held."""
        self._is_held = False

    def die(self, dead: bool = True) -> None:
        """End as a crash would, or come back."""
        self._dead = dead

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        pass

    def check_alive(self) -> None:
        engine = EchoEngine(self._tokenizer)
        if self._dead:
            engine.check_alive()  # it was never started: RunError

    async def generate(self, prompt_ids: Sequence[int], spec: SamplingSpec) -> AsyncGenerator[Delta, None]:
        self.check_alive()
        self.asked.append((self._tokenizer.decode(prompt_ids), spec))
        engine: Engine = (
            self._answers.pop(0) if self._answers else EchoEngine(self._tokenizer, context_tokens=self.context_tokens)
        )
        await engine.start()
        self.num_running += 1
        try:
            async with contextlib.aclosing(engine.generate(prompt_ids, spec)) as deltas:
                async for delta in deltas:
                    self.progress += 1
                    yield delta
        except (asyncio.CancelledError, GeneratorExit):
            self.num_aborted += 1
            raise
        finally:
            self.num_running -= 1


@contextlib.contextmanager
def staged(
    family_name: str = "openchat_v3.2", *, context_tokens: int = 32_768, **settings: Any
) -> Iterator[tuple[Served, Stage]]:
    """Serve a stage until the block ends."""
    stage = Stage(family_name, context_tokens=context_tokens)
    with serving(family_name, engine=stage, **settings) as served:
        yield served, stage


@dataclass(kw_only=True)
class Visit:
    """The page in a tab of its own browser profile, and whatever went wrong in it."""

    page: Any
    origin: str
    said: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def at(self, name: str) -> Any:
        """Give what bears a name for tests."""
        return self.page.get_by_test_id(name)

    def ask(self, text: str) -> None:
        """Type a message and send it."""
        self.at("composer").fill(text)
        self.at("composer").press("Enter")

    def last(self, name: str = "message") -> Any:
        """Give the last reply, or what bears a name in it."""
        reply = self.page.locator("[data-testid=message][data-role=assistant]").last
        return reply if name == "message" else reply.get_by_test_id(name)

    def wait(self, state: str = "done", timeout_seconds: float = 60) -> Any:
        """Wait until the last reply is in a state, and give it."""
        self.until(
            """([all, state]) => [...document.querySelectorAll(all)].at(-1)?.dataset.state === state""",
            arg=["[data-testid=message][data-role=assistant]", state],
            timeout_seconds=timeout_seconds,
        )
        return self.last()

    def until(self, script: str, arg: Any = None, timeout_seconds: float = 60) -> None:
        """Wait until a script gives something true. Playwright's own way would be refused by the page's CSP."""
        end = time.monotonic() + timeout_seconds
        while not self.page.evaluate(script, arg):
            seen = self.page.inner_text("body")[-2000:] if time.monotonic() > end else ""
            assert time.monotonic() < end, f"not within {timeout_seconds} s: {script}\n{seen}"
            self.page.wait_for_timeout(15)

    def saved(self, text: str, times: int = 1) -> None:
        """Wait until what the page keeps has a text so often."""
        self.until(
            """([text, times]) => new Promise((give) => {
                indexedDB.open("ochatctl").onsuccess = ({ target: { result: db } }) => {
                    db.transaction("conversations").objectStore("conversations").getAll().onsuccess = ({ target }) => {
                        db.close();
                        give(JSON.stringify(target.result).split(text).length > times);
                    };
                };
            })""",
            arg=[text, times],
        )

    def reply_to(self, text: str) -> Any:
        """Ask, and give the finished reply."""
        before = self.page.locator("[data-testid=message][data-role=assistant]").count()
        self.ask(text)
        self.until(f"document.querySelectorAll('[data-testid=message][data-role=assistant]').length > {before}")
        return self.wait()

    def has(self, name: str, count: int) -> None:
        """Wait until so many bear a name."""
        self.until(
            "([name, count]) => document.querySelectorAll(`[data-testid=${name}]`).length === count", arg=[name, count]
        )

    def ready(self) -> None:
        """Wait until the page has read its storage and knows the server."""
        self.page.locator("[data-testid=app][data-state=ready]").wait_for()

    def check(self, *, allowed: Sequence[str] = ()) -> None:
        """Assert that nothing was refused, thrown, asked by a dialog or fetched from elsewhere."""
        # A failed request is the browser's to tell; the page says it in words.
        said = [line for line in self.said if not any(part in line for part in allowed)]
        assert said == []
        assert self.page.evaluate("window.__refused") == []
        assert self.dialogs == []
        strangers = [url for url in self.asked if not url.startswith((self.origin + "/", "data:", "blob:"))]
        assert strangers == []


@contextlib.contextmanager
def visiting(browser: Any, origin: str, *, path: str = "/", wait: bool = True, **settings: Any) -> Iterator[Visit]:
    """Open the page in a fresh profile until the block ends; then nothing forbidden has happened."""
    usual = {"viewport": DESKTOP, "permissions": ["clipboard-read", "clipboard-write"], "reduced_motion": "reduce"}
    settings = usual | settings
    allowed = settings.pop("allowed", ())
    context = browser.new_context(base_url=origin, **settings)
    context.set_default_timeout(60_000)
    context.add_init_script(_WATCH)
    page = context.new_page()
    visit = Visit(page=page, origin=origin)
    page.on("console", lambda message: visit.said.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: visit.said.append(str(error)))

    def dismiss(dialog: Any) -> None:
        visit.dialogs.append(dialog.message)
        dialog.dismiss()

    page.on("dialog", dismiss)
    context.on("request", lambda request: visit.asked.append(request.url))
    try:
        page.goto(path)
        if wait:
            visit.ready()
        yield visit
        visit.check(allowed=allowed)
    finally:
        context.close()
