/**
 * Formulas in TeX, kept as they were written: `\(…\)`, `\[…\]`, `$…$` and `$$…$$`. Markdown alone would take their
 * backslashes, stars and underscores for its own.
 */

import type MarkdownIt from "markdown-it";
import type { StateInline } from "markdown-it";

const ENDS: Record<string, string> = { "\\(": "\\)", "\\[": "\\]", $$: "$$" };
/** As pandoc has it: no space inside, no digit behind. What costs $5 or $6 is no formula. */
const SHORT = /\$(?!\s|\$)(?:\\.|[^$\\\n])*?[^\s\\$]\$(?!\d)|\$[^\s\\$]\$(?!\d)/y;

/** Teaches a parser formulas. `isOpen`: whether one that has not ended goes on to the end of the text. */
export function keepFormulas(md: InstanceType<typeof MarkdownIt>, isOpen: (env: unknown) => boolean): void {
  md.inline.ruler.before("escape", "formula", (state, silent) => {
    const end = endOf(state, isOpen(state.env));
    if (end < 0) return false;
    if (!silent) state.push("formula", "span", 0).content = state.src.slice(state.pos, end);
    state.pos = end;
    return true;
  });
  // Of its own block, so that a line of it that looks like a list is none. Only where a block may begin: whether a
  // paragraph ends before it would hang on whether it ends itself.
  md.block.ruler.before("fence", "formula_block", (state, start, lineMax, silent) => {
    if (state.level > 0 || (state.sCount[start] ?? 0) >= 4) return false;
    const line = (number: number) => state.src.slice(state.bMarks[number], state.eMarks[number]).trim();
    const begin = line(start);
    const close = ENDS[begin.slice(0, 2)];
    if (close === undefined || close === "\\)") return false;
    let next = start;
    let isClosed = begin.length > 3 && begin.endsWith(close);
    if (begin.slice(2, isClosed ? -2 : undefined).includes(close)) return false; // words follow it: a paragraph
    while (!isClosed && ++next < lineMax && line(next)) isClosed = line(next).endsWith(close);
    if (!isClosed && (next < lineMax || !isOpen(state.env))) return false;
    if (silent) return true;
    state.line = Math.min(next + 1, lineMax);
    const token = state.push("formula_block", "div", 0);
    token.content = state.getLines(start, state.line, 0, false);
    token.map = [start, state.line];
    token.meta = { isClosed };
    return true;
  });
  const { escapeHtml } = md.utils;
  md.renderer.rules.formula = (tokens, index) =>
    `<span class="formula">${escapeHtml(tokens[index]?.content ?? "")}</span>`;
  md.renderer.rules.formula_block = (tokens, index) =>
    `<div class="formula">${escapeHtml(tokens[index]?.content ?? "")}</div>\n`;
}

function endOf({ src, pos, posMax }: StateInline, isOpen: boolean): number {
  const close = ENDS[src.slice(pos, pos + 2)];
  if (close !== undefined) {
    const at = src.indexOf(close, pos + 2);
    if (at > pos + 2 && at + 2 <= posMax) return at + 2;
    return isOpen && at < 0 ? posMax : -1;
  }
  if (src[pos] !== "$") return -1;
  SHORT.lastIndex = pos;
  const end = SHORT.test(src) ? SHORT.lastIndex : -1;
  return end <= posMax ? end : -1;
}
