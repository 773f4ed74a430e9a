/** Light, dark, or as the system has it. `public/theme.js` sets the kept choice before the first paint. */

import { signal } from "@preact/signals";

export type Theme = "system" | "light" | "dark";

const NAME = "ochatctl.theme";
const ORDER: readonly Theme[] = ["system", "light", "dark"];

export const theme = signal<Theme>((document.documentElement.dataset.theme as Theme | undefined) ?? "system");

export function nextTheme(): void {
  const next = ORDER[(ORDER.indexOf(theme.value) + 1) % ORDER.length] ?? "system";
  theme.value = next;
  if (next === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = next;
  try {
    localStorage.setItem(NAME, next);
  } catch {
    // It holds for this page.
  }
}
