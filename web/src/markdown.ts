/**
 * A reply's Markdown as safe HTML.
 *
 * Safe twice over: markdown-it takes no HTML and no address but http, https and mailto; what it gives goes through
 * DOMPurify with a list of what may stay. The page's CSP is the third wall.
 */

import DOMPurify from "dompurify";
import hljs from "highlight.js/lib/core";
import bash from "highlight.js/lib/languages/bash";
import c from "highlight.js/lib/languages/c";
import cpp from "highlight.js/lib/languages/cpp";
import css from "highlight.js/lib/languages/css";
import diff from "highlight.js/lib/languages/diff";
import go from "highlight.js/lib/languages/go";
import ini from "highlight.js/lib/languages/ini";
import java from "highlight.js/lib/languages/java";
import javascript from "highlight.js/lib/languages/javascript";
import json from "highlight.js/lib/languages/json";
import markdown from "highlight.js/lib/languages/markdown";
import python from "highlight.js/lib/languages/python";
import ruby from "highlight.js/lib/languages/ruby";
import rust from "highlight.js/lib/languages/rust";
import sql from "highlight.js/lib/languages/sql";
import typescript from "highlight.js/lib/languages/typescript";
import xml from "highlight.js/lib/languages/xml";
import yaml from "highlight.js/lib/languages/yaml";
import MarkdownIt, { type Token } from "markdown-it";
import { keepFormulas } from "./math";

const LANGUAGES = {
  bash,
  c,
  cpp,
  css,
  diff,
  go,
  ini,
  java,
  javascript,
  json,
  markdown,
  python,
  ruby,
  rust,
  sql,
  typescript,
  xml,
  yaml,
};
for (const [name, language] of Object.entries(LANGUAGES)) hljs.registerLanguage(name, language);

/** Beyond these, code stays plain: its colours would cost more than a frame. */
const MAX_HIGHLIGHTED_CHARS = 20_000;
const MAX_HIGHLIGHTED_STREAMING_CHARS = 4_000;

const SAFE_LINK = /^(?:https?:\/\/|mailto:)[^\s]/i;
const TASK = /^\[([ xX])\](?=\s)/;

const ALLOWED_TAGS = [
  ..."a blockquote br button code del div em h2 hr input li ol p pre s span strong".split(" "),
  ..."table tbody td th thead tr ul".split(" "),
];
const PLAIN_ATTR =
  "aria-label checked class data-copy dir disabled rel role scope start tabindex target title type".split(" ");

const md = new MarkdownIt({ html: false, linkify: true, breaks: true, typographer: false });
// Words with a dot in them are no addresses: `main.py`, `node.js`.
md.linkify.set({ fuzzyLink: false, fuzzyEmail: false, fuzzyIP: false });
md.validateLink = (url) => SAFE_LINK.test(url);

type Env = { streaming: boolean };
keepFormulas(md, (env) => (env as Env).streaming);
const { escapeHtml } = md.utils;

function codeBlock(code: string, info: string, env: Env): string {
  const word = info.trim().split(/[\s,{]/)[0] ?? "";
  const name = /^[\w+#.-]{1,30}$/.test(word) ? word : "";
  const most = env.streaming ? MAX_HIGHLIGHTED_STREAMING_CHARS : MAX_HIGHLIGHTED_CHARS;
  const known = name !== "" && code.length <= most && hljs.getLanguage(name) !== undefined;
  const inner = known ? hljs.highlight(code, { language: name, ignoreIllegals: true }).value : escapeHtml(code);
  const label = name === "" ? "text" : escapeHtml(name);
  const style = name === "" ? "hljs" : `hljs language-${escapeHtml(name)}`;
  return (
    `<div class="code-block"><div class="code-head"><span class="code-language">${label}</span>` +
    '<button type="button" class="copy" data-copy="" aria-label="Copy code">Copy</button></div>' +
    `<pre tabindex="0" role="region" aria-label="Code, ${label}"><code class="${style}">${inner}</code></pre></div>\n`
  );
}

md.renderer.rules.fence = (tokens, index, _options, env) =>
  codeBlock(tokens[index]?.content ?? "", tokens[index]?.info ?? "", env as Env);
md.renderer.rules.code_block = (tokens, index, _options, env) =>
  codeBlock(tokens[index]?.content ?? "", "", env as Env);

md.renderer.rules.link_open = (tokens, index, options, _env, self) => {
  const token = tokens[index] as Token;
  // markdown-it lets an empty address through, which would be the page's own.
  if (!SAFE_LINK.test(String(token.attrGet("href") ?? ""))) return "<span>";
  token.attrSet("target", "_blank");
  token.attrSet("rel", "noopener noreferrer nofollow");
  return self.renderToken(tokens, index, options);
};

md.renderer.rules.link_close = (tokens, index) => {
  const level = tokens[index]?.level;
  const open = tokens.slice(0, index).findLast((token) => token.type === "link_open" && token.level === level);
  return SAFE_LINK.test(String(open?.attrGet("href") ?? "")) ? "</a>" : "</span>";
};

// A picture would be fetched from wherever the model says: who reads a reply would tell a stranger so. A link asks first.
md.renderer.rules.image = (tokens, index, options, env, self) => {
  const token = tokens[index] as Token;
  const alt = self.renderInlineAsText(token.children ?? [], options, env) || "picture";
  const href = escapeHtml(String(token.attrGet("src") ?? ""));
  if (!href) return escapeHtml(alt);
  return `<a href="${href}" target="_blank" rel="noopener noreferrer nofollow">${escapeHtml(alt)}</a>`;
};

md.renderer.rules.table_open = (tokens, index) =>
  `<div class="table-scroll"${direction(tokens[index])} tabindex="0" role="region" aria-label="Table"><table>\n`;
md.renderer.rules.table_close = () => "</table></div>\n";

function direction(token: Token | undefined): string {
  const dir = token?.attrGet("dir");
  return dir ? ` dir="${dir}"` : "";
}

/** The page's title is the one above them. What a model skips between its levels would mislead a screen reader. */
function heading(tokens: Token[], index: number): string {
  const token = tokens[index] as Token;
  return token.nesting === 1 ? `<h2 class="level-${token.tag.slice(1)}"${direction(token)}>` : "</h2>\n";
}
md.renderer.rules.heading_open = heading;
md.renderer.rules.heading_close = heading;

/** Alignment as a class: the page's CSP takes no `style`. */
function cell(tokens: Token[], index: number): string {
  const token = tokens[index] as Token;
  const align = /text-align:(left|center|right)/.exec(String(token.attrGet("style") ?? ""))?.[1];
  const scope = token.tag === "th" ? ' scope="col"' : "";
  return `<${token.tag}${scope}${align ? ` class="align-${align}"` : ""}>`;
}
md.renderer.rules.th_open = cell;
md.renderer.rules.td_open = cell;

md.core.ruler.after("inline", "tasks", (state) => {
  const lists: Token[] = [];
  state.tokens.forEach((token, index) => {
    if (/^(?:bullet|ordered)_list_open$/.test(token.type)) lists.push(token);
    if (/^(?:bullet|ordered)_list_close$/.test(token.type)) lists.pop();
    const item = state.tokens[index - 2];
    const first = token.children?.[0];
    if (token.type !== "inline" || item?.type !== "list_item_open" || first?.type !== "text") return;
    const mark = TASK.exec(token.content);
    if (!mark) return;
    const done = mark[1] !== " ";
    first.content = first.content.slice(mark[0].length);
    const box = new state.Token("task_box", "input", 0);
    box.meta = { done };
    token.children?.unshift(box);
    item.attrJoin("class", "task");
    lists.at(-1)?.attrSet("class", "task-list");
  });
});
md.renderer.rules.task_box = (tokens, index) => {
  const done = tokens[index]?.meta?.done === true;
  return `<input type="checkbox" disabled=""${done ? ' checked=""' : ""} aria-label="${done ? "done" : "to do"}">`;
};

const DIRECTED = /^(?:paragraph|heading|bullet_list|ordered_list|blockquote|table)_(?:open|close)$/;
const RIGHT_TO_LEFT = /^[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\u{10800}-\u{10fff}\u{1e800}-\u{1efff}]/u;

/** Has each block run as its first letter does. `dir="auto"` would not see the letters of the blocks inside a block. */
md.core.ruler.push("directions", (state) => {
  const found = new Map<Token, string>();
  const open: Token[] = [];
  for (const token of state.tokens) {
    if (DIRECTED.test(token.type)) token.nesting === 1 ? open.push(token) : open.pop();
    if (token.type !== "inline" || open.every((block) => found.has(block))) continue;
    const words = token.children?.filter((each) => each.type === "text").map((each) => each.content);
    const letter = /\p{L}/u.exec(words?.join("") ?? "")?.[0];
    if (letter === undefined) continue;
    for (const block of open) if (!found.has(block)) found.set(block, RIGHT_TO_LEFT.test(letter) ? "rtl" : "ltr");
  }
  const around = ["ltr"];
  for (const token of state.tokens) {
    if (!DIRECTED.test(token.type)) continue;
    if (token.nesting === -1) {
      around.pop();
      continue;
    }
    const outer = around.at(-1) ?? "ltr";
    const dir = found.get(token) ?? outer;
    if (dir !== outer) token.attrSet("dir", dir);
    around.push(dir);
  }
});

const blocksOnly = new MarkdownIt({ html: false });
blocksOnly.core.ruler.enableOnly(["normalize", "block"]);
keepFormulas(blocksOnly, () => true);

/** The beginning of a line that may still become a list, a task, a heading, a quote, a rule or a fence. */
const LOOSE_LINE =
  /(?:^|\n)[ \t>]*(?:(?:[-*+]|\d{1,9}[.)]?)[ \t]*(?:\[[ xX]?\]?)?|#{1,6}|[-*_=]{2,}|`{1,3}[\w+#.-]*|~{1,3})?[ \t]*$/;
/** Rows that are a table once the line of dashes below them is there. */
const LOOSE_ROW = /(?:^|\n[ \t]*\n)[ \t]*\|[^\n]*(?:\n[ \t|:-]*)?$/;

/** Leaves out of a growing text what would be drawn in one way now and in another with the next letters. */
function withoutLooseEnd(text: string): string {
  const last = blocksOnly.parse(text, {}).at(-1);
  const isOpened = last?.type === "fence" && (last.map?.[0] ?? 0) < text.split("\n").length - 1;
  const isFormula = last?.type === "formula_block" && last.meta?.isClosed === false;
  if (isOpened || isFormula || last?.type === "code_block") return text;
  const clear = text.replace(LOOSE_ROW, "").replace(LOOSE_LINE, "");
  const start = clear.lastIndexOf("\n") + 1;
  return clear.slice(0, start) + closed(clear.slice(start));
}

/** A link that has begun: its words, and what there is of its address, which may hold parentheses in pairs. */
const OPEN_LINK = /(?:^|[^\\])(!?\[(?:([^\][\n]*)|([^\][\n]*)\](?:\((?:[^()\s]|\([^()\s]*\))*(?:\([^()\s]*)?)?))$/;
/** Marks with nothing behind them yet. */
const OPEN_MARK = /(^|[\s(])(?:\*{1,3}|_{1,2}|~{1,2}|`{1,2})$/;
/** What a mark has begun and not ended, and half of its end. */
const OPEN_TEXT = [
  { mark: /\*\*/g, begun: /\*\*[^\s*][^*]*\*?$/, end: "**" },
  { mark: /(?<!\*)\*(?!\*)/g, begun: /(?:^|[\s(])\*[^\s*][^*]*$/, end: "*" },
  { mark: /~~/g, begun: /~~[^\s~][^~]*~?$/, end: "~~" },
];

/** Ends what a line has begun: a code span, marked text, a link, which shows its words until its address is there. */
function closed(line: string): string {
  if ((line.match(/`/g)?.length ?? 0) % 2) return OPEN_MARK.test(line) ? line.replace(OPEN_MARK, "$1") : `${line}\``;
  const open = OPEN_LINK.exec(line);
  const shown = open ? line.slice(0, -(open[1]?.length ?? 0)) + (open[2] ?? open[3] ?? "") : line;
  for (const { mark, begun, end } of OPEN_TEXT) {
    const isOdd = (shown.match(mark)?.length ?? 0) % 2 === 1;
    if (isOdd && begun.test(shown)) return shown.replace(/[*~\s]+$/, "") + end;
  }
  return shown.replace(OPEN_MARK, "$1");
}

/** Gives Markdown as HTML that may be put into the page. `streaming`: more comes, and long code is left plain. */
export function renderMarkdown(text: string, options: { streaming?: boolean } = {}): string {
  const env: Env = { streaming: options.streaming ?? false };
  return DOMPurify.sanitize(md.render(env.streaming ? withoutLooseEnd(text) : text, env), {
    ALLOWED_TAGS,
    ALLOWED_ATTR: [...PLAIN_ATTR, "href"],
    // DOMPurify holds every other value to the form of an address.
    ADD_URI_SAFE_ATTR: PLAIN_ATTR,
    ALLOW_ARIA_ATTR: false,
    ALLOW_DATA_ATTR: false,
    ALLOWED_URI_REGEXP: SAFE_LINK,
  });
}

/** A line that begins so is text, whatever else comes: no list, fence, table, heading, quote or rule. */
const SURELY_TEXT = /^\p{L}/u;

/**
 * Cuts Markdown into blocks; joined they are the text.
 *
 * Guarantees: all but the last stay as they are, whatever is appended; rendered one by one they are the whole, rendered
 * at once. Definitions of references, which work backwards, hold within their block.
 */
export function splitBlocks(text: string): string[] {
  if (text === "") return [];
  const lines = text.split(/(?<=\r\n|\r(?!\n)|\n)/);
  const tail = lines.at(-1) ?? "";
  const isWhole = /[\r\n]$/.test(tail) && !tail.endsWith("\r");
  // An unfinished line may still become anything, and belong to what stands before it.
  const numSure = isWhole || SURELY_TEXT.test(tail) ? lines.length : lines.length - 1;
  const out: string[] = [];
  let from = 0;
  for (const token of blocksOnly.parse(lines.slice(0, numSure).join(""), {})) {
    const start = token.map?.[0];
    if (token.level !== 0 || start === undefined || start <= from) continue;
    if (out.length === 0 && from === 0 && lines.slice(0, start).join("").trim() === "") continue;
    out.push(lines.slice(from, start).join(""));
    from = start;
  }
  out.push(lines.slice(from).join(""));
  return out;
}
