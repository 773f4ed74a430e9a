import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { send } from "../actions";
import { copyText } from "../clipboard";
import { nextFrame } from "../frame";
import { announce } from "../notices";
import { followEnd, holdPlace, isAtEnd, isLeftAbove, jumpToEnd } from "../scrolling";
import { current, type Entry, editing, isLoaded, model, server, version } from "../state";
import { Icon, Logo } from "./Icons";
import { MessageView } from "./Message";

const STARTERS = [
  "Explain how a suspension bridge carries its load, for a curious twelve-year-old.",
  "Write a Python function that finds the longest run of equal items in a list.",
  "Give me three ways to begin a letter to an old friend.",
  "What are the trade-offs between SQLite and PostgreSQL for a small web app?",
];

/** How many messages are drawn at first, and how many more with each frame. */
const FIRST = 30;
const MORE = 40;

export function Thread() {
  const entry = current.value;
  const { messages, id } = entry.conversation.value;
  const scroller = useRef<HTMLDivElement>(null);
  const column = useRef<HTMLDivElement>(null);
  // Before it is painted: a chat does not flash at its beginning.
  useLayoutEffect(() => {
    if (scroller.current && column.current) return followEnd(scroller.current, column.current, id);
  }, [id]);

  return (
    <div class="thread-frame">
      <div
        ref={scroller}
        class="thread"
        data-testid="thread"
        tabindex={0}
        role="region"
        aria-label="Messages"
        onClick={copyCode}
      >
        <div ref={column} class="column" key={id}>
          {isLoaded.value && messages.length === 0 && <Empty />}
          <Messages entry={entry} />
        </div>
      </div>
      {!isAtEnd.value && (
        <button type="button" class="jump" data-testid="jump" aria-label="Jump to the end" onClick={jumpToEnd}>
          <Icon name="down" />
        </button>
      )}
    </div>
  );
}

/** Draws the last messages at once, and those above them a few with each frame: a long chat opens without a wait. */
function Messages({ entry }: { entry: Entry }) {
  const { messages, id } = entry.conversation.value;
  const [start, setStart] = useState(() => (isLeftAbove(id) ? 0 : Math.max(0, messages.length - FIRST)));
  const hold = useRef<(() => void) | null>(null);
  useEffect(() => {
    if (start === 0) return;
    return nextFrame(() => {
      hold.current = holdPlace();
      setStart(Math.max(0, start - MORE));
    });
  }, [start]);
  useLayoutEffect(() => {
    hold.current?.();
    hold.current = null;
  }, [start]);

  const run = entry.run.value;
  const isRemote = entry.remoteUntil.value > Date.now();
  const first = Math.min(start, messages.length);
  return (
    <>
      {messages.slice(first).map((message, index) => {
        const numBelow = messages.length - 1 - first - index;
        const isOpen = isRemote && numBelow === 0 && !message.finishReason && !message.error;
        return (
          <MessageView
            key={message.id}
            message={message}
            isLast={numBelow === 0}
            isStreaming={run?.messageId === message.id || isOpen}
            isBusy={run !== null || isRemote}
            isEdited={editing.value === message.id}
            numBelow={numBelow}
          />
        );
      })}
    </>
  );
}

function Empty() {
  const card = model.value;
  const { engine } = version.value ?? {};
  const facts = [
    card?.family && `family ${card.family}`,
    card?.max_model_len && `${card.max_model_len.toLocaleString("en")} tokens of context`,
    engine && `engine ${engine}`,
  ].filter(Boolean);
  return (
    <section class="empty" data-testid="empty">
      <Logo />
      <h2>What shall we talk about?</h2>
      <p class="served">
        {card && <strong>{card.id}</strong>}
        {facts.length > 0 && <span>{facts.join(" · ")}</span>}
      </p>
      <ul class="starters">
        {STARTERS.map((text) => (
          <li key={text}>
            <button
              type="button"
              class="starter"
              data-testid="starter"
              disabled={server.value !== "ready"}
              onClick={() => send(text)}
            >
              {text}
            </button>
          </li>
        ))}
      </ul>
      {engine === "echo" && (
        <p class="served-note">The echo engine has no model: it says what you say, to try things out.</p>
      )}
    </section>
  );
}

/** Wires the copy buttons inside replies, which are plain HTML. */
async function copyCode(event: MouseEvent): Promise<void> {
  const button = event.target instanceof Element && event.target.closest<HTMLButtonElement>("button[data-copy]");
  if (!button) return;
  const code = button.closest(".code-block")?.querySelector("code")?.textContent ?? "";
  const isDone = await copyText(code.replace(/\n$/, ""));
  button.textContent = isDone ? "Copied" : "Not copied";
  announce(isDone ? "Code copied" : "The browser did not let this page copy");
  window.setTimeout(() => {
    button.textContent = "Copy";
  }, 1600);
}
