/** Draws a reply while it grows: each finished block once, the last one again, at most once a frame. */

import { nextFrame } from "./frame";
import { renderMarkdown, splitBlocks } from "./markdown";
import { morph } from "./morph";

/** Drawing may take this share of the time: a long block is drawn less often instead of making the page stutter. */
const BUSY_SHARE = 0.25;

export class GrowingMarkdown {
  private finished = ""; // the text of all blocks but the last
  private last: HTMLElement | null = null;
  private text = "";
  private isDone = false;
  private callOff: (() => void) | null = null;
  private restUntil = 0;

  constructor(private readonly target: HTMLElement) {}

  /** Shows the text: at once where it is done or new, else with the next frame that has room. */
  update(text: string, isDone: boolean): void {
    if (text === this.text && isDone === this.isDone) return;
    this.text = text;
    this.isDone = isDone;
    if (isDone || !this.last) this.draw();
    else if (!this.callOff) this.wait();
  }

  dispose(): void {
    this.callOff?.();
    this.callOff = null;
  }

  private wait(): void {
    const rest = this.restUntil - performance.now();
    if (rest > 0) {
      const timer = window.setTimeout(() => this.wait(), rest);
      this.callOff = () => window.clearTimeout(timer);
    } else {
      this.callOff = nextFrame(() => this.draw());
    }
  }

  private draw(): void {
    this.dispose();
    const began = performance.now();
    if (!this.text.startsWith(this.finished)) {
      this.target.replaceChildren();
      this.finished = "";
      this.last = null;
    }
    const rest = this.text.slice(this.finished.length);
    // What is complete when it is first shown is drawn in one go, which is cheaper.
    const blocks = this.isDone && !this.last ? [rest] : splitBlocks(rest);
    const growing = blocks.pop() ?? "";
    for (const block of blocks) {
      this.drawLast(block, false);
      this.last = null;
      this.finished += block;
    }
    this.drawLast(growing, !this.isDone);
    const now = performance.now();
    this.restUntil = now + (now - began) / BUSY_SHARE;
  }

  private drawLast(source: string, streaming: boolean): void {
    if (!this.last) {
      this.last = document.createElement("div");
      this.last.className = "block";
      this.target.append(this.last);
    }
    const template = document.createElement("template");
    template.innerHTML = renderMarkdown(source, { streaming }); // sanitised there
    if (streaming) tipOf(template.content)?.classList.add("tip");
    morph(this.last, template.content);
  }
}

/** Gives what the text ends in, where the next words come. A table and code show by themselves that they grow. */
function tipOf(block: DocumentFragment): Element | null {
  let it = block.lastElementChild;
  for (let next = it; next && /^(?:P|H2|UL|OL|LI|BLOCKQUOTE)$/.test(next.nodeName); next = it.lastElementChild)
    it = next;
  return it && /^(?:P|H2|LI)$/.test(it.nodeName) ? it : null;
}
