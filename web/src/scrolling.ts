/** Follows the end of the messages while they grow, unless their reader has scrolled up; each chat opens where it was left. */

import { signal } from "@preact/signals";
import { keep, recall } from "./tab";

const NEAR_PX = 48;

export const isAtEnd = signal(true);
let thread: HTMLElement | null = null;
/** Where the thread was when it was last looked at or moved from here. */
let top = 0;

/** Follows what grows in `content`, inside the scrolling `element`; `id` is the chat's. Gives what ends it. */
export function followEnd(element: HTMLElement, content: HTMLElement, id: string): () => void {
  const place = `place.${id}`;
  const left = recall(place);
  thread = element;
  isAtEnd.value = left === "";
  element.scrollTop = left ? Number(left) : element.scrollHeight;
  top = element.scrollTop;
  const onScroll = () => {
    const isNear = element.scrollHeight - element.scrollTop - element.clientHeight < NEAR_PX;
    // Text that came since the last frame is no reason to stop following; scrolling up is.
    if (isNear) isAtEnd.value = true;
    else if (element.scrollTop < top) isAtEnd.value = false;
    top = element.scrollTop;
  };
  const sizes = new ResizeObserver(() => {
    // An empty chat begins at its top.
    if (!isAtEnd.value || !content.querySelector(".message")) return;
    toEnd(element);
  });
  const leave = () => keep(place, isAtEnd.value ? "" : String(top));
  element.addEventListener("scroll", onScroll, { passive: true });
  window.addEventListener("pagehide", leave);
  sizes.observe(element);
  sizes.observe(content);
  return () => {
    leave();
    sizes.disconnect();
    element.removeEventListener("scroll", onScroll);
    window.removeEventListener("pagehide", leave);
  };
}

/** Whether a chat was left above its end. */
export function isLeftAbove(id: string): boolean {
  return recall(`place.${id}`) !== "";
}

/** Remembers what is in sight, to have it there again once something was put above it. */
export function holdPlace(): () => void {
  const element = thread;
  if (!element) return () => undefined;
  const below = element.scrollHeight - element.scrollTop;
  return () => {
    element.scrollTop = element.scrollHeight - below;
    top = element.scrollTop;
  };
}

export function jumpToEnd(): void {
  isAtEnd.value = true;
  if (thread) toEnd(thread);
}

function toEnd(element: HTMLElement): void {
  element.scrollTop = element.scrollHeight;
  // It may stand higher than before, where the composer has shrunk: nobody scrolled up.
  top = element.scrollTop;
}
