/** Files dropped anywhere on the page are imported; without this the browser would leave the page and show them. */

import { importFiles } from "./library";
import { isDropping } from "./state";

/** Takes files from now on. Gives what ends it. */
export function takeFiles(): () => void {
  const over = (event: DragEvent) => {
    if (!event.dataTransfer?.types.includes("Files")) return; // text goes into the message box
    event.preventDefault();
    event.dataTransfer.dropEffect = "copy";
    isDropping.value = true;
  };
  const leave = (event: DragEvent) => {
    if (event.relatedTarget === null) isDropping.value = false;
  };
  const drop = (event: DragEvent) => {
    isDropping.value = false;
    const files = Array.from(event.dataTransfer?.files ?? []);
    if (!files.length) return;
    event.preventDefault();
    void importFiles(files);
  };
  document.addEventListener("dragover", over);
  document.addEventListener("dragleave", leave);
  document.addEventListener("drop", drop);
  return () => {
    document.removeEventListener("dragover", over);
    document.removeEventListener("dragleave", leave);
    document.removeEventListener("drop", drop);
  };
}
