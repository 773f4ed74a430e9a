/** Light, dark, or as the system has it. `public/theme.js` sets the kept choice before the first paint. */

import { signal } from "@preact/signals";

export type Theme = "system" | "light" | "dark";

const NAME = "ochatctl.theme";
const ORDER: readonly Theme[] = ["system", "light", "dark"];

export const theme = signal<Theme>((document.documentElement.dataset.theme as Theme | undefined) ?? "system");

/** A phone's bar over the page has the page's colour. */
function colourBar(): void {
  for (const meta of document.querySelectorAll<HTMLMetaElement>("meta[data-scheme]")) {
    const { scheme } = meta.dataset;
    if (theme.value === "system") meta.media = `(prefers-color-scheme: ${scheme})`;
    else meta.media = theme.value === scheme ? "all" : "not all";
  }
}
colourBar();

export function nextTheme(): void {
  const next = ORDER[(ORDER.indexOf(theme.value) + 1) % ORDER.length] ?? "system";
  theme.value = next;
  colourBar();
  if (next === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = next;
  try {
    localStorage.setItem(NAME, next);
  } catch {
    // It holds for this page.
  }
}
