import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { send, stop } from "../actions";
import { keepFocus } from "../focus";
import { jumpToEnd } from "../scrolling";
import { current, dialog, editing, server } from "../state";
import { keep, recall } from "../tab";
import { Icon, StopIcon } from "./Icons";
import { fitHeight } from "./Message";

export function Composer() {
  const entry = current.value;
  const { id, messages } = entry.conversation.value;
  // What was typed and not sent. A chat without messages is not stored, and has another id after a reload.
  const draft = `draft.${messages.length ? id : "new"}`;
  const area = useRef<HTMLTextAreaElement>(null);
  const [isEmpty, setEmpty] = useState(true);
  const isRunning = entry.run.value !== null;
  const isRemote = entry.remoteUntil.value > Date.now();

  const changed = () => {
    const text = area.current?.value ?? "";
    keep(draft, text);
    setEmpty(!text.trim());
    fitHeight(area.current);
  };
  // Before anybody can type: a draft that comes later would take the place of what was typed by then.
  useLayoutEffect(() => {
    if (!area.current) return;
    area.current.value = recall(draft);
    changed();
    if (!matchMedia("(pointer: coarse)").matches && !dialog.value) area.current.focus();
  }, [id]);

  // The button that was pressed is gone: send has become stop, or a reply's own button waits.
  useEffect(keepFocus, [isRunning]);

  const submit = () => {
    if (!area.current || !send(area.current.value)) return;
    area.current.value = "";
    changed();
    jumpToEnd();
  };
  return (
    <div class="composer-frame">
      <div class="composer">
        <textarea
          ref={area}
          data-testid="composer"
          dir="auto"
          aria-label="Message"
          placeholder={isRemote ? "Another tab is answering this chat" : "Message"}
          rows={1}
          enterkeyhint="enter"
          onInput={changed}
          onKeyDown={(event) => {
            // A key that ends or picks a word of an input method is not ours.
            if (event.isComposing || event.keyCode === 229 || event.shiftKey) return;
            if (event.key === "ArrowUp" && isEmpty && !isRunning && !isRemote && !event.ctrlKey && !event.metaKey) {
              const asked = messages.findLast((message) => message.role === "user");
              if (!asked) return;
              event.preventDefault();
              editing.value = asked.id;
            }
            if (event.key !== "Enter") return;
            // On a phone the button sends: its keyboard has no Shift-Enter.
            if (matchMedia("(pointer: coarse) and (hover: none)").matches && !event.ctrlKey && !event.metaKey) return;
            event.preventDefault();
            submit();
          }}
        />
        {isRunning ? (
          <button
            type="button"
            class="round stop"
            data-testid="stop"
            aria-label="Stop"
            title="Stop (Esc)"
            onClick={stop}
          >
            <StopIcon />
          </button>
        ) : (
          <button
            type="button"
            class="round"
            data-testid="send"
            aria-label="Send"
            title="Send (Enter)"
            disabled={isEmpty || isRemote}
            onClick={submit}
          >
            <Icon name="send" />
          </button>
        )}
      </div>
      <p class="composer-note">
        {server.value === "locked" ? (
          <>
            The server wants an API key.{" "}
            <button
              type="button"
              class="link"
              onClick={() => {
                dialog.value = "key";
              }}
            >
              Enter it
            </button>
          </>
        ) : (
          "Models make mistakes: check what matters."
        )}
      </p>
    </div>
  );
}
