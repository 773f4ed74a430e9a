/** Follows the end of the messages while they grow, unless their reader has scrolled up. */

import { signal } from "@preact/signals";

const NEAR_PX = 48;

export const isAtEnd = signal(true);
let thread: HTMLElement | null = null;

/** Follows what grows in `content`, inside the scrolling `element`. Gives what ends it. */
export function followEnd(element: HTMLElement, content: HTMLElement): () => void {
  thread = element;
  isAtEnd.value = true;
  let top = 0;
  const onScroll = () => {
    const isNear = element.scrollHeight - element.scrollTop - element.clientHeight < NEAR_PX;
    // Text that came since the last frame is no reason to stop following; scrolling up is.
    if (isNear) isAtEnd.value = true;
    else if (element.scrollTop < top) isAtEnd.value = false;
    top = element.scrollTop;
  };
  const sizes = new ResizeObserver(() => {
    // An empty chat begins at its top.
    if (isAtEnd.value && content.querySelector(".message")) element.scrollTop = element.scrollHeight;
  });
  element.addEventListener("scroll", onScroll, { passive: true });
  sizes.observe(element);
  sizes.observe(content);
  return () => {
    sizes.disconnect();
    element.removeEventListener("scroll", onScroll);
  };
}

export function jumpToEnd(): void {
  isAtEnd.value = true;
  if (thread) thread.scrollTop = thread.scrollHeight;
}
