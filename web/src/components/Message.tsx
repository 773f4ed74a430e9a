import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { continueReply, regenerate, saveEdit, waits } from "../actions";
import { copyText } from "../clipboard";
import { GrowingMarkdown } from "../growing";
import { announce, notify } from "../notices";
import { editing } from "../state";
import type { Message } from "../types";
import { Icon } from "./Icons";
import { memo } from "./memo";

export type MessageProps = {
  message: Message;
  isLast: boolean;
  /** It is being written, here or in another tab. */
  isStreaming: boolean;
  /** Some reply of this conversation is. */
  isBusy: boolean;
  isEdited: boolean;
  numBelow: number;
};

export const MessageView = memo(function MessageView(props: MessageProps) {
  return props.message.role === "user" ? <Question {...props} /> : <Reply {...props} />;
});

function Question({ message, isBusy, isEdited, numBelow }: MessageProps) {
  return (
    <article
      class="message user"
      data-testid="message"
      data-role="user"
      data-id={message.id}
      data-state="done"
      aria-label="You"
    >
      {isEdited ? (
        <Edit message={message} numBelow={numBelow} />
      ) : (
        <>
          <div class="bubble" data-testid="content" dir="auto">
            {message.content}
          </div>
          <div class="actions">
            <button
              type="button"
              class="icon-button small"
              data-testid="edit"
              aria-label="Edit this message"
              title="Edit"
              disabled={isBusy}
              onClick={() => {
                editing.value = message.id;
              }}
            >
              <Icon name="edit" />
            </button>
            <Copy text={message.content} />
          </div>
        </>
      )}
    </article>
  );
}

function Edit({ message, numBelow }: { message: Message; numBelow: number }) {
  const area = useRef<HTMLTextAreaElement>(null);
  // Before anybody can type: a caret that is set later takes what was typed by then apart.
  useLayoutEffect(() => {
    area.current?.focus();
    area.current?.setSelectionRange(message.content.length, message.content.length);
    fitHeight(area.current);
  }, []);
  const cancel = () => {
    editing.value = null;
    requestAnimationFrame(() =>
      document.querySelector<HTMLElement>(`[data-id="${message.id}"] [data-testid=edit]`)?.focus(),
    );
  };
  const save = () => saveEdit(message.id, area.current?.value ?? "");
  return (
    <div class="edit">
      <textarea
        ref={area}
        class="edit-input"
        data-testid="edit-input"
        dir="auto"
        aria-label="Your message, edited"
        aria-describedby={`note-${message.id}`}
        defaultValue={message.content}
        rows={1}
        onInput={() => fitHeight(area.current)}
        onKeyDown={(event) => {
          if (event.isComposing || event.keyCode === 229) return;
          if (event.key === "Escape") cancel();
          else if (event.key === "Enter" && !event.shiftKey) save();
          else return;
          event.preventDefault();
          event.stopPropagation();
        }}
      />
      <div class="edit-foot">
        <span class="edit-note" id={`note-${message.id}`}>
          {numBelow > 0 && `Replaces what follows (${numBelow} ${numBelow === 1 ? "message" : "messages"})`}
        </span>
        <button type="button" class="button quiet" data-testid="edit-cancel" onClick={cancel}>
          Cancel
        </button>
        <button type="button" class="button primary" data-testid="edit-save" onClick={save}>
          Send
        </button>
      </div>
    </div>
  );
}

/** Makes a text area as high as its text; the style sheet says where that ends. */
export function fitHeight(area: HTMLTextAreaElement | null): void {
  if (!area) return;
  area.style.height = "auto";
  area.style.height = `${area.scrollHeight + area.offsetHeight - area.clientHeight}px`;
}

function Reply({ message, isLast, isStreaming, isBusy }: MessageProps) {
  const { id, content, finishReason, error } = message;
  const target = useRef<HTMLDivElement>(null);
  const growing = useRef<GrowingMarkdown | null>(null);
  useLayoutEffect(() => {
    if (!target.current) return;
    growing.current ??= new GrowingMarkdown(target.current);
    growing.current.update(content, !isStreaming);
  }, [content, isStreaming]);
  useEffect(() => () => growing.current?.dispose(), []);

  const isInterrupted = !isStreaming && !finishReason && !error;
  const state = isStreaming ? "streaming" : error ? "error" : isInterrupted ? "interrupted" : "done";
  const isCut = Boolean(content) && !isStreaming && (finishReason !== "stop" || Boolean(error));
  return (
    <article
      class="message assistant"
      data-testid="message"
      data-role="assistant"
      data-id={id}
      data-state={state}
      aria-label="Reply"
      aria-busy={isStreaming}
    >
      <div class={isStreaming ? "content streaming" : "content"} data-testid="content" ref={target} />
      {isStreaming && !content && (
        <div class="waiting" aria-hidden="true">
          <span />
          <span />
          <span />
        </div>
      )}
      {error && !isStreaming && <Fault message={message} isBusy={isBusy} isLast={isLast} />}
      <div class="reply-foot">
        {!isStreaming && (
          <>
            <div class="actions">
              {content && <Copy text={content} />}
              {isLast && !error && (
                <button
                  type="button"
                  class="icon-button small"
                  data-testid="regenerate"
                  aria-label="Write this reply again"
                  title="Write again"
                  disabled={isBusy}
                  onClick={() => regenerate(id)}
                >
                  <Icon name="again" />
                </button>
              )}
            </div>
            <Ending message={message} isInterrupted={isInterrupted} />
            {isLast && isCut && (
              <button
                type="button"
                class="button small"
                data-testid="continue"
                disabled={isBusy}
                onClick={() => continueReply(id)}
              >
                <Icon name="forward" />
                Continue
              </button>
            )}
          </>
        )}
      </div>
    </article>
  );
}

const REASONS: Record<string, string> = {
  stop: "Complete",
  length: "Cut at the token limit",
  stopped: "Stopped",
};

function Ending({ message, isInterrupted }: { message: Message; isInterrupted: boolean }) {
  const { finishReason, numTokens, tokensPerSecond, error } = message;
  const counts: string[] = [];
  if (numTokens !== undefined) counts.push(`${numTokens.toLocaleString("en")} ${numTokens === 1 ? "token" : "tokens"}`);
  if (tokensPerSecond !== undefined) counts.push(`${speed(tokensPerSecond)} tokens/s`);
  const reason = finishReason ? (REASONS[finishReason] ?? finishReason) : isInterrupted ? "Interrupted" : "";
  return (
    <p class="ending">
      {reason && !error && (
        <span
          class={finishReason === "stop" ? "reason" : "reason cut"}
          data-testid="finish-reason"
          data-reason={finishReason ?? "interrupted"}
        >
          {reason}
        </span>
      )}
      {counts.length > 0 && <span data-testid="meta">{counts.join(" · ")}</span>}
    </p>
  );
}

function speed(perSecond: number): string {
  return perSecond < 10 ? perSecond.toFixed(1) : Math.round(perSecond).toLocaleString("en");
}

function Fault({ message, isBusy, isLast }: { message: Message; isBusy: boolean; isLast: boolean }) {
  const [now, setNow] = useState(Date.now());
  const seconds = Math.ceil(((waits.get(message.id) ?? 0) - now) / 1000);
  useEffect(() => {
    if (seconds <= 0) return;
    const timer = window.setTimeout(() => setNow(Date.now()), 1000);
    return () => window.clearTimeout(timer);
  }, [now]);
  return (
    <div class="fault" data-testid="error">
      <Icon name="alert" />
      <p>
        {message.error}
        {message.content && " What had come by then is kept."}
      </p>
      {isLast && (
        <button
          type="button"
          class="button small"
          data-testid="retry"
          disabled={isBusy}
          onClick={() => regenerate(message.id)}
        >
          {seconds > 0 ? `Try again (better in ${seconds} s)` : "Try again"}
        </button>
      )}
    </div>
  );
}

function Copy({ text }: { text: string }) {
  const [isDone, setDone] = useState(false);
  useEffect(() => {
    if (!isDone) return;
    const timer = window.setTimeout(() => setDone(false), 1600);
    return () => window.clearTimeout(timer);
  }, [isDone]);
  return (
    <button
      type="button"
      class="icon-button small"
      data-testid="copy-message"
      aria-label="Copy this message"
      title="Copy"
      onClick={async () => {
        const done = await copyText(text);
        setDone(done);
        if (done) announce("Copied");
        else notify("The browser did not let this page copy.", { isError: true });
      }}
    >
      <Icon name={isDone ? "check" : "copy"} />
    </button>
  );
}
