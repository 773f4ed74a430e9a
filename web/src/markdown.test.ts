// @vitest-environment jsdom
/// <reference types="node" />
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { renderMarkdown, splitBlocks } from "./markdown";
import payloads from "./xss.json";

function dom(html: string): HTMLElement {
  const out = document.createElement("div");
  out.innerHTML = html;
  return out;
}

const TAGS = new Set(
  "a blockquote br button code del div em h2 hr input li ol p pre s span strong table tbody td th thead tr ul".split(
    " ",
  ),
);

function expectInert(text: string) {
  expectInertHtml(text, renderMarkdown(text));
  expectInertHtml(text, renderMarkdown(text, { streaming: true }));
}

function expectInertHtml(text: string, html: string) {
  const root = dom(html);
  for (const element of root.querySelectorAll("*")) {
    expect(TAGS, text).toContain(element.localName);
    expect(element.namespaceURI, text).toBe("http://www.w3.org/1999/xhtml");
    for (const { name, value } of element.attributes) {
      expect(name, text).not.toMatch(/^on|^(?:style|src|srcset|srcdoc|id|name|action|formaction|background|ping)$/);
      if (name === "href") expect(value, text).toMatch(/^(?:https?:\/\/|mailto:)/i);
    }
    if (element.localName === "input") expect(element.getAttribute("type")).toBe("checkbox");
    if (element.localName === "a") {
      expect(element.getAttribute("rel")).toBe("noopener noreferrer nofollow");
      expect(element.getAttribute("target")).toBe("_blank");
    }
  }
}

describe("nothing that a model writes can run", () => {
  it("has a table worth its name", () => expect(payloads.length).toBeGreaterThanOrEqual(60));
  it.each(payloads)("%s", (payload) => {
    expectInert(payload);
    const inside = `[${payload}](${payload}) ![${payload}](${payload} "${payload}")`;
    expectInert(`${inside}\n\n> ${payload}\n\n- ${payload}\n\n| a |\n|---|\n| ${payload} |\n\n**${payload}**`);
    expectInert(`\`\`\`${payload}\n${payload}\n\`\`\``);
  });

  it("at random", () => {
    const piece = fc.oneof(
      fc.constantFrom(...payloads),
      fc.constantFrom("\n", "\n\n", "`", "```", "[", "](", ")", "<", "> ", "- "),
      fc.string(),
    );
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 6 }), (pieces) => {
        expectInert(pieces.join(""));
      }),
      { numRuns: 60 },
    );
  });
});

describe("what Markdown becomes", () => {
  it.each([
    ["**b** *i* `c` ~~s~~", "<p><strong>b</strong> <em>i</em> <code>c</code> <s>s</s></p>\n"],
    ["# one\n###### six", '<h2 class="level-1">one</h2>\n<h2 class="level-6">six</h2>\n'],
    ["a\nb", "<p>a<br>\nb</p>\n"],
    ["2 < 3 & <b>4</b>", "<p>2 &lt; 3 &amp; &lt;b&gt;4&lt;/b&gt;</p>\n"],
    ["[x](/v1/models)", "<p>[x](/v1/models)</p>\n"],
    ["3. c\n4. d", '<ol start="3">\n<li>c</li>\n<li>d</li>\n</ol>\n'],
    ["[x]() ![y]() **z**", "<p><span>x</span> y <strong>z</strong></p>\n"],
    ["see main.py and node.js", "<p>see main.py and node.js</p>\n"],
  ])("%j", (text, html) => expect(renderMarkdown(text)).toBe(html));

  it("runs each block as its first letter does, and code from left to right", () => {
    const text = "# W\n\n`x` W\n\n- W\n\n1. W\n\n> 1. W\n\n| W |\n|---|\n| x |\n\n```\nW\n```";
    expect(renderMarkdown(text)).not.toContain("dir=");
    const root = dom(renderMarkdown(text.replaceAll("W", "كلمة")));
    for (const name of ["h2", "p", "ul", "ol", "blockquote", ".table-scroll"]) {
      expect(root.querySelector(name)?.getAttribute("dir"), name).toBe("rtl");
    }
    expect(root.querySelector("blockquote ol")?.hasAttribute("dir")).toBe(false); // as what it stands in
    expect(root.querySelector(".code-block")?.closest("[dir]")).toBeNull();
    const mixed = dom(renderMarkdown("> שלום\n>\n> Hello"));
    expect([...mixed.querySelectorAll("p")].map((each) => each.getAttribute("dir"))).toEqual([null, "ltr"]);
  });

  it.each([
    ["\\(a_1 * b_2 * c\\)", '<p><span class="formula">\\(a_1 * b_2 * c\\)</span></p>\n'],
    ["$x_i$ and $5 or $6, $ 7 $", '<p><span class="formula">$x_i$</span> and $5 or $6, $ 7 $</p>\n'],
    ["so $$a < b$$ holds", '<p>so <span class="formula">$$a &lt; b$$</span> holds</p>\n'],
    ["\\[\na \\\\\n- b\n\\]", '<div class="formula">\\[\na \\\\\n- b\n\\]</div>\n'],
    ["$$\na\n\nb", "<p>$$<br>\na</p>\n<p>b</p>\n"],
    ["\\(a", "<p>(a</p>\n"],
    ["`$a$ \\(b\\)`", "<p><code>$a$ \\(b\\)</code></p>\n"],
  ])("keeps formulas as they were written: %j", (text, html) => expect(renderMarkdown(text)).toBe(html));

  it.each(["$$\na *b* \\\\\n- c", "see \\(a *b* c", "\\[ a_1 + \\frac{1}"])(
    "a growing formula does not change its looks: %j",
    (text) => {
      expect(dom(renderMarkdown(text, { streaming: true })).textContent?.trim()).toBe(text);
    },
  );

  it("highlights a known language and offers a copy", () => {
    const root = dom(renderMarkdown("```python\ndef f(x):\n    return x < 1\n```"));
    expect(root.querySelector("pre > code.hljs.language-python .hljs-keyword")?.textContent).toBe("def");
    expect(root.querySelector("code")?.textContent).toBe("def f(x):\n    return x < 1\n");
    expect(root.querySelector(".code-language")?.textContent).toBe("python");
    expect(root.querySelector("button.copy")?.getAttribute("type")).toBe("button");
    expect(root.querySelector("button.copy")?.hasAttribute("data-copy")).toBe(true);
  });

  it("leaves an unknown language, and long code under way, plain", () => {
    expect(dom(renderMarkdown("```brainfuck\n+<-\n```")).querySelector(".hljs span")).toBeNull();
    const long = `\`\`\`python\n${"x = 1\n".repeat(2000)}`;
    expect(dom(renderMarkdown(long, { streaming: true })).querySelector(".hljs span")).toBeNull();
    expect(dom(renderMarkdown(long)).querySelector(".hljs span")).not.toBeNull();
  });

  it.each([
    ["Text\n\n-", "Text"],
    ["Text\n\n- ", "Text"],
    ["Text\n\n- [x", "Text"],
    ["Text\n\n1", "Text"],
    ["Text\n\n1.", "Text"],
    ["Text\n\n##", "Text"],
    ["Text\n\n```py", "Text"],
    ["Text\n\n| a | b", "Text"],
    ["Text\n\n| a | b |\n|--", "Text"],
    ["Text\n--", "Text"],
    ["Text", "Text"],
    ["Text\n\nMore", "Text\nMore"],
    ["- a\n-", "a"],
    ["In 1990", "In 1990"],
    ["see [the pa", "see the pa"],
    ["see [the paper]", "see the paper"],
    ["see [the paper](https://a.exam", "see the paper"],
    ["see ![a cat](https://a", "see a cat"],
    ["a[0] and **bo", "a[0] and bo"],
    ["use `x = a[", "use x = a["],
    ["2 ** 3", "2 ** 3"],
    ["and **", "and"],
    ["and **bold*", "and bold"],
    ["and *ita", "and ita"],
    ["and ~~st", "and st"],
    ["and `", "and"],
    ["2 * 3 = 6 and 5 *x", "2 * 3 = 6 and 5 *x"],
    ["see [it](https://a.example/b_(c)", "see it"],
  ])("a growing %j is not drawn before it is clear", (text, seen) => {
    expect(dom(renderMarkdown(text, { streaming: true })).textContent?.trim()).toBe(seen);
  });

  it("code that grows is drawn as it is", () => {
    expect(dom(renderMarkdown("```\na\n-", { streaming: true })).querySelector("code")?.textContent).toBe("a\n-");
  });

  it("aligns tables by class, and lets them scroll", () => {
    const root = dom(renderMarkdown("| a | b |\n|--:|:-:|\n| 1 | 2 |"));
    expect([...root.querySelectorAll("td")].map((each) => each.className)).toEqual(["align-right", "align-center"]);
    expect(root.querySelector(".table-scroll > table th[scope=col]")).not.toBeNull();
    expect(root.innerHTML).not.toContain("style=");
  });

  it("draws task lists that cannot be changed", () => {
    const root = dom(renderMarkdown("- [x] done\n- [ ] to do\n- [link](https://a.example)"));
    const boxes = [...root.querySelectorAll<HTMLInputElement>("ul.task-list > li.task input")];
    expect(boxes.map((box) => [box.checked, box.disabled])).toEqual([
      [true, true],
      [false, true],
    ]);
    expect(root.querySelectorAll("li")[0]?.textContent?.trim()).toBe("done");
    expect(root.querySelectorAll("li").length).toBe(3);
  });

  it("makes a link of a picture", () => {
    const root = dom(renderMarkdown("![a cat](https://a.example/cat.png)"));
    expect(root.querySelector("img")).toBeNull();
    expect(root.querySelector("a")?.href).toBe("https://a.example/cat.png");
    expect(root.querySelector("a")?.textContent).toBe("a cat");
  });

  it.each([
    ["*".repeat(20_000)],
    ["[".repeat(20_000)],
    [">".repeat(20_000)],
    ["![".repeat(10_000)],
    ["`".repeat(20_000)],
    ["- ".repeat(10_000)],
    ["a**b".repeat(5_000)],
    ["<".repeat(20_000)],
    ["|".repeat(5_000)],
    ["http://".repeat(5_000)],
    ["$".repeat(20_001)],
    ["$a".repeat(10_000)],
    ["\\(".repeat(10_000)],
    ["$$\na\n".repeat(5_000)],
    [`\`\`\`js\n${"/*".repeat(10_000)}`],
    [`\`\`\`python\n${"'''".repeat(10_000)}`],
    [`\`\`\`xml\n${"<a ".repeat(10_000)}`],
  ])("takes bad input in its stride: %#", (text) => {
    const before = process.cpuUsage();
    renderMarkdown(text);
    splitBlocks(text);
    expect(process.cpuUsage(before).user / 1e6).toBeLessThan(3);
  });
});

/** Pieces that make blocks, or look as if they did. */
const piece = fc.oneof(
  fc.constantFrom(
    ..."a|word|\n|\n\n|\n\n\n| |  |    |- |* |+ |1. |2) |> |# |## |```|```py\n|~~~|---|===|***|: |<div>|<!--|-->|\t|\\|`|**".split(
      "|",
    ),
    "|",
    "| a | b |\n",
    "|---|---|\n",
    "$",
    "$$",
    "\\(",
    "\\[",
    "\\]",
    "\n\n$$\n",
    "\r\n",
    "é",
    "7",
    "Sure, here:\n",
    "\n\n- item\n",
    "\n\nText\n\n",
  ),
  fc.string({ maxLength: 5 }),
);
const markdown = fc
  .array(piece, { minLength: 4, maxLength: 24, size: "max" })
  .map((pieces) => pieces.join(""))
  // Definitions work backwards, over any distance: what they do is not kept.
  .filter((text) => !text.includes("]:"));

describe("blocks", () => {
  it.each([
    ["", []],
    ["one", ["one"]],
    ["one\n\ntwo", ["one\n\n", "two"]],
    ["one\n\n- tw", ["one\n\n- tw"]],
    ["one\n\n- two\n", ["one\n\n", "- two\n"]],
    ["- a\n\n1", ["- a\n\n1"]],
    ["```\na\n\nb", ["```\na\n\nb"]],
    ["```\na\n```\nText", ["```\na\n```\n", "Text"]],
    ["# h\ntext", ["# h\n", "text"]],
    ["| a |\n|---|\n| b |\n\nText", ["| a |\n|---|\n| b |\n\n", "Text"]],
  ])("%j", (text, blocks) => expect(splitBlocks(text)).toEqual(blocks));

  it("joined are the text", () => {
    fc.assert(
      fc.property(markdown, (text) => {
        expect(splitBlocks(text).join("")).toBe(text);
      }),
      { numRuns: 300 },
    );
  });

  it("finished ones never change as text is appended", () => {
    let numFinished = 0;
    fc.assert(
      fc.property(markdown, (text) => {
        let before: string[] = [];
        for (let end = 1; end <= text.length; end++) {
          const now = splitBlocks(text.slice(0, end));
          const finished = before.slice(0, -1);
          numFinished += finished.length;
          expect(now.slice(0, finished.length), text.slice(0, end)).toEqual(finished);
          before = now;
        }
      }),
      { numRuns: 150 },
    );
    expect(numFinished).toBeGreaterThan(300);
  });

  it("rendered one by one are the whole rendered at once", () => {
    let numCut = 0;
    fc.assert(
      fc.property(markdown, (text) => {
        const blocks = splitBlocks(text);
        numCut += blocks.length > 1 ? 1 : 0;
        const joined = blocks.map((block) => renderMarkdown(block)).join("");
        expect(dom(joined).innerHTML).toBe(dom(renderMarkdown(text)).innerHTML);
      }),
      { numRuns: 300 },
    );
    expect(numCut).toBeGreaterThan(50);
  });

  it("are the same when only the last is cut again", () => {
    fc.assert(
      fc.property(markdown, fc.nat(), (text, at) => {
        const cut = text.length === 0 ? 0 : at % text.length;
        const before = splitBlocks(text.slice(0, cut));
        const last = before.at(-1) ?? "";
        const again = [...before.slice(0, -1), ...splitBlocks(last + text.slice(cut))];
        expect(again).toEqual(splitBlocks(text));
      }),
      { numRuns: 300 },
    );
  });
});
