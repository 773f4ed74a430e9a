import { useEffect, useRef, useState } from "preact/hooks";
import { CTRL } from "../keyboard";
import { newChat, openConversation } from "../library";
import { dialog, summaries } from "../state";
import { nextTheme } from "../theme";
import { Dialog } from "./Dialog";
import { Icon, type IconName } from "./Icons";

type Command = { id: string; label: string; icon: IconName | null; keys?: string; act: () => void };

const close = () => {
  dialog.value = null;
};

function commands(): Command[] {
  return [
    { id: "new", label: "New chat", icon: "plus", keys: `${CTRL} Shift O`, act: newChat },
    {
      id: "settings",
      label: "Settings of this chat",
      icon: "sliders",
      keys: `${CTRL} ,`,
      act: () => {
        dialog.value = "settings";
      },
    },
    {
      id: "shortcuts",
      label: "Keyboard shortcuts",
      icon: "keyboard",
      keys: `${CTRL} /`,
      act: () => {
        dialog.value = "shortcuts";
      },
    },
    { id: "theme", label: "Change the colours", icon: "auto", act: nextTheme },
    ...summaries.value.map(({ id, title }) => ({
      id,
      label: title || "Untitled",
      icon: null,
      act: () => void openConversation(id),
    })),
  ];
}

export function Palette() {
  const [text, setText] = useState("");
  const [chosen, setChosen] = useState(0);
  const list = useRef<HTMLDivElement>(null);
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const found = commands()
    .filter(({ label }) => words.every((word) => label.toLowerCase().includes(word)))
    .slice(0, 50);
  useEffect(() => {
    list.current?.querySelector("[aria-selected=true]")?.scrollIntoView({ block: "nearest" });
  }, [chosen, text]);
  const pick = (command: Command | undefined) => {
    if (!command) return;
    close();
    // After the dialog has given the focus back.
    window.setTimeout(command.act);
  };
  return (
    <Dialog testid="palette" title="Go to a chat" class="palette" hidesTitle onClose={close}>
      <input
        data-first
        data-testid="palette-input"
        dir="auto"
        class="palette-input"
        role="combobox"
        aria-label="Go to a chat, or do something"
        aria-expanded="true"
        aria-controls="palette-list"
        aria-autocomplete="list"
        aria-activedescendant={found[chosen] ? `palette-${found[chosen].id}` : undefined}
        placeholder="Go to a chat, or do something"
        autocomplete="off"
        spellcheck={false}
        value={text}
        onInput={(event) => {
          setText(event.currentTarget.value);
          setChosen(0);
        }}
        onKeyDown={(event) => {
          if (event.isComposing || event.keyCode === 229) return;
          const steps: Record<string, number> = { ArrowDown: 1, ArrowUp: -1 };
          const step = steps[event.key];
          if (step !== undefined && found.length) setChosen((chosen + step + found.length) % found.length);
          else if (event.key === "Enter") pick(found[chosen]);
          else return;
          event.preventDefault();
        }}
      />
      <div
        ref={list}
        id="palette-list"
        class="palette-list"
        role="listbox"
        aria-label="Chats and actions"
        tabindex={-1}
      >
        {found.map((command, index) => (
          <div
            key={command.id}
            id={`palette-${command.id}`}
            class={index === chosen ? "palette-item chosen" : "palette-item"}
            data-testid="palette-item"
            role="option"
            tabindex={-1}
            aria-selected={index === chosen}
            onMouseMove={() => setChosen(index)}
            onClick={() => pick(command)}
          >
            {command.icon ? <Icon name={command.icon} /> : <span class="bullet" aria-hidden="true" />}
            <span class="palette-label" dir="auto">
              {command.label}
            </span>
            {command.keys && <kbd>{command.keys}</kbd>}
          </div>
        ))}
      </div>
      {!found.length && <p class="palette-none">Nothing has this in its title.</p>}
    </Dialog>
  );
}
