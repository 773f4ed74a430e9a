/** Runs something with the next frame, or soon where the tab is hidden and draws none. Gives what calls it off. */
export function nextFrame(work: () => void): () => void {
  const cancel = () => {
    cancelAnimationFrame(frame);
    window.clearTimeout(timer);
  };
  const once = () => {
    cancel();
    work();
  };
  const frame = requestAnimationFrame(once);
  const timer = window.setTimeout(once, 250);
  return cancel;
}
