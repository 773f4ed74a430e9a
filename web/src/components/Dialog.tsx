import type { ComponentChildren } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { Icon } from "./Icons";

type Props = {
  testid: string;
  title: string;
  closeTestid?: string;
  /** The title is for screen readers alone. */
  hidesTitle?: boolean;
  class?: string;
  onClose: () => void;
  children: ComponentChildren;
};

/** A modal dialog. The browser keeps the focus inside, and gives it back. */
export function Dialog({ testid, title, closeTestid, hidesTitle, class: name = "", onClose, children }: Props) {
  const ref = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    const dialog = ref.current;
    const opener = document.activeElement;
    dialog?.showModal();
    dialog?.querySelector<HTMLElement>("[data-first]")?.focus();
    return () => {
      dialog?.close();
      // Removed from the page, a dialog cannot give the focus back itself.
      const heir =
        opener instanceof HTMLElement && opener.isConnected && opener !== document.body
          ? opener
          : document.querySelector<HTMLElement>("[data-testid=composer]");
      heir?.focus();
    };
  }, []);
  return (
    <dialog
      ref={ref}
      class={`dialog ${name}`}
      data-testid={testid}
      aria-labelledby={`${testid}-title`}
      onCancel={(event) => {
        event.preventDefault();
        onClose();
      }}
      onMouseDown={(event) => event.target === ref.current && onClose()}
    >
      <div class="dialog-body">
        <header class={hidesTitle ? "hidden" : "dialog-head"}>
          <h2 id={`${testid}-title`}>{title}</h2>
          {closeTestid && (
            <button type="button" class="icon-button" data-testid={closeTestid} aria-label="Close" onClick={onClose}>
              <Icon name="close" />
            </button>
          )}
        </header>
        {children}
      </div>
    </dialog>
  );
}
