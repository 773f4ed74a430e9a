/** What the page tells beside the conversation: notices that go away, and words for screen readers. */

import { newId } from "./ids";
import { announcement, type Entry, type Toast, toasts } from "./state";

export function notify(text: string, more: Omit<Toast, "id" | "text"> = {}): void {
  toasts.value = [...toasts.value.slice(-2), { id: newId(), text, ...more }];
}

export function dismiss(id: string): void {
  toasts.value = toasts.value.filter((toast) => toast.id !== id);
}

/** Takes back the offers to undo what was done to this conversation: it has gone on since. */
export function withdraw(entry: Entry): void {
  toasts.value = toasts.value.filter((toast) => toast.of !== entry);
}

/** Has a screen reader say it; the same words again are said again. */
export function announce(text: string): void {
  announcement.value = announcement.value === text ? `${text}\u00a0` : text;
}
