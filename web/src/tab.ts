/** What this tab remembers over a reload, and forgets when it is closed: drafts, and where somebody was reading. */

const PREFIX = "ochatctl.";
const held = new Map<string, string>();

/** Gives what was kept, empty where nothing was. */
export function recall(name: string): string {
  const there = held.get(name);
  if (there !== undefined) return there;
  try {
    return sessionStorage.getItem(PREFIX + name) ?? "";
  } catch {
    return ""; // storage is shut off
  }
}

/** Keeps a text; an empty one is forgotten. */
export function keep(name: string, text: string): void {
  held.set(name, text);
  try {
    if (text) sessionStorage.setItem(PREFIX + name, text);
    else sessionStorage.removeItem(PREFIX + name);
  } catch {
    // Storage is shut off or full: it holds for this page.
  }
}
