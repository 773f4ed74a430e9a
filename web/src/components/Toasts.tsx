import { useEffect, useState } from "preact/hooks";
import { dismiss } from "../notices";
import { type Toast, toasts } from "../state";
import { Icon } from "./Icons";

const SHOWN_MS = 8000;

export function Toasts() {
  return (
    <div class="toasts" role="status" aria-live="polite">
      {toasts.value.map((toast) => (
        <One key={toast.id} toast={toast} />
      ))}
    </div>
  );
}

function One({ toast }: { toast: Toast }) {
  const [isHeld, setHeld] = useState(false);
  useEffect(() => {
    if (isHeld) return; // somebody reads it, or is about to press its button
    const timer = window.setTimeout(() => dismiss(toast.id), SHOWN_MS);
    return () => window.clearTimeout(timer);
  }, [isHeld]);
  return (
    <div
      class={toast.isError ? "toast wrong" : "toast"}
      data-testid="toast"
      onMouseEnter={() => setHeld(true)}
      onMouseLeave={() => setHeld(false)}
      onFocusIn={() => setHeld(true)}
      onFocusOut={() => setHeld(false)}
    >
      <span>{toast.text}</span>
      {toast.undo && (
        <button
          type="button"
          class="button small"
          data-testid="toast-undo"
          onClick={() => {
            toast.undo?.();
            dismiss(toast.id);
          }}
        >
          Undo
        </button>
      )}
      <button
        type="button"
        class="icon-button small"
        data-testid="toast-close"
        aria-label="Close this notice"
        onClick={() => dismiss(toast.id)}
      >
        <Icon name="close" />
      </button>
    </div>
  );
}
