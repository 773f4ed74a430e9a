// @vitest-environment jsdom
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { GrowingMarkdown } from "./growing";
import { renderMarkdown } from "./markdown";

const TEXT = `# A title

A paragraph with **bold** and \`code\`, on
two lines.

1. one

2. two

   \`\`\`python
   print("in a list")
   \`\`\`

| a | b |
|---|---|
| 1 | 2 |

\`\`\`js
const x = 1;

const y = 2;
\`\`\`
The end.`;

beforeEach(() => {
  vi.useFakeTimers();
});

afterEach(() => {
  vi.useRealTimers();
});

function grow(step: number): HTMLElement {
  const target = document.createElement("div");
  const growing = new GrowingMarkdown(target);
  for (let end = 0; end < TEXT.length; end += step) {
    growing.update(TEXT.slice(0, end), false);
    vi.advanceTimersByTime(300);
  }
  growing.update(TEXT, true);
  return target;
}

test("however it came, it ends as it looks when drawn at once", () => {
  const whole = document.createElement("div");
  whole.innerHTML = renderMarkdown(TEXT);
  for (const step of [3, 11, 40]) {
    const target = grow(step);
    const blocks = Array.from(target.children, (block) => block.innerHTML);
    expect(blocks.length).toBeGreaterThan(3); // it was cut at all
    expect(blocks.join("")).toBe(whole.innerHTML);
  }
});

test("a finished block is not touched again", () => {
  const target = document.createElement("div");
  const growing = new GrowingMarkdown(target);
  growing.update("First.\n\nSecond", false);
  const first = target.querySelector("p");
  growing.update("First.\n\nSecond paragraph.\n\nThird", false);
  vi.advanceTimersByTime(300);
  growing.update("First.\n\nSecond paragraph.\n\nThird paragraph.", true);
  expect(target.querySelectorAll("p")).toHaveLength(3);
  expect(target.querySelector("p")).toBe(first);
});

test("a text that is another one replaces what was there", () => {
  const target = document.createElement("div");
  const growing = new GrowingMarkdown(target);
  growing.update("One.\n\nTwo.\n\nThree.", true);
  growing.update("Another", true);
  expect(target.textContent?.trim()).toBe("Another");
});

test.each([
  ["Text", "P"],
  ["Text\n\n- one\n- two", "LI"],
  ["Text\n\n> said", "P"],
  ["Text\n\n```\ncode", undefined],
])("where the next words come after %j is marked until the reply ends", (text, tag) => {
  const target = document.createElement("div");
  const growing = new GrowingMarkdown(target);
  growing.update(text, false);
  const marked = target.querySelectorAll(".tip");
  expect(Array.from(marked, (each) => each.nodeName)).toEqual(tag ? [tag] : []);
  if (tag) expect(target.textContent?.trim().endsWith(marked[0]?.textContent?.trim() ?? "?")).toBe(true);
  growing.update(text, true);
  expect(target.querySelector(".tip")).toBeNull();
});
