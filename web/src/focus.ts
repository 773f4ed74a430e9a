/** Where the focus goes when what had it is gone. */

import { nextFrame } from "./frame";
import { dialog } from "./state";

export function focusComposer(): void {
  document.querySelector<HTMLElement>("[data-testid=composer]")?.focus();
}

/** Gives the focus to the composer where nothing has it, but on phones, where that would call the keyboard. */
export function keepFocus(): void {
  nextFrame(() => {
    if (dialog.value || document.activeElement !== document.body || matchMedia("(pointer: coarse)").matches) return;
    focusComposer();
  });
}
