import { useEffect } from "preact/hooks";
import { stop } from "../actions";
import { UNREACHABLE } from "../api";
import { takeFiles } from "../files";
import { focusComposer } from "../focus";
import { newChat } from "../library";
import {
  announcement,
  current,
  dialog,
  isDropping,
  isLoaded,
  model,
  server,
  sidebarIsOpen,
  storageFault,
} from "../state";
import { Composer } from "./Composer";
import { Icon } from "./Icons";
import { KeyDialog } from "./KeyDialog";
import { Palette } from "./Palette";
import { Settings } from "./Settings";
import { Shortcuts } from "./Shortcuts";
import { Sidebar } from "./Sidebar";
import { Thread } from "./Thread";
import { Toasts } from "./Toasts";

export function App() {
  useEffect(() => {
    document.addEventListener("keydown", onKey);
    return () => document.removeEventListener("keydown", onKey);
  }, []);
  useEffect(takeFiles, []);
  const { title } = current.value.conversation.value;
  useEffect(() => {
    document.title = title ? `${title} · ochatctl` : "ochatctl";
  }, [title]);
  return (
    <div class="app" data-testid="app" data-state={isLoaded.value && server.value !== "loading" ? "ready" : "loading"}>
      <Sidebar />
      <main class="main" inert={sidebarIsOpen.value}>
        <Head />
        <Banner />
        <Thread />
        <Composer />
      </main>
      <Toasts />
      <div class="offscreen" role="status" aria-live="polite" data-testid="live">
        {announcement.value}
      </div>
      {isDropping.value && (
        <div class="drop" data-testid="drop" aria-hidden="true">
          <Icon name="upload" />
          Drop files with chats to import them
        </div>
      )}
      {dialog.value === "settings" && <Settings />}
      {dialog.value === "key" && <KeyDialog />}
      {dialog.value === "palette" && <Palette />}
      {dialog.value === "shortcuts" && <Shortcuts />}
    </div>
  );
}

function Head() {
  const { title, condition, params, system } = current.value.conversation.value;
  const numSet = Object.keys(params).length + (system.trim() ? 1 : 0);
  const facts = [model.value?.id ?? "", condition, numSet ? `${numSet} ${numSet === 1 ? "setting" : "settings"}` : ""]
    .filter(Boolean)
    .join(" · ");
  return (
    <header class="head">
      <button
        type="button"
        class="icon-button only-narrow"
        data-testid="sidebar-open"
        aria-label="Open the list of chats"
        aria-controls="sidebar"
        aria-expanded={sidebarIsOpen.value}
        onClick={() => {
          sidebarIsOpen.value = true;
        }}
      >
        <Icon name="menu" />
      </button>
      <h1 data-testid="title" dir="auto">
        {title || "New chat"}
      </h1>
      <button
        type="button"
        class="icon-button only-narrow"
        data-testid="new-chat-narrow"
        aria-label="New chat"
        onClick={newChat}
      >
        <Icon name="plus" />
      </button>
      <button
        type="button"
        class="settings-button"
        data-testid="settings-open"
        aria-label={facts ? `Settings of this chat: ${facts}` : "Settings of this chat"}
        aria-haspopup="dialog"
        onClick={() => {
          dialog.value = "settings";
        }}
      >
        <span class="facts">{facts}</span>
        <Icon name="sliders" />
      </button>
    </header>
  );
}

function Banner() {
  const text = server.value === "down" ? `${UNREACHABLE} Trying again.` : storageFault.value;
  if (!text) return null;
  return (
    <div class="banner" data-testid="banner" role="alert">
      <Icon name="alert" />
      {text}
    </div>
  );
}

function onKey(event: KeyboardEvent): void {
  if (event.isComposing || event.keyCode === 229) return;
  const isCommand = (event.ctrlKey || event.metaKey) && !event.altKey;
  const key = event.key.toLowerCase();
  const isTyping = event.target instanceof HTMLElement && event.target.matches("input, textarea, select");
  if (event.key === "Escape") {
    if (dialog.value || sidebarIsOpen.value || !current.value.run.value) return;
    stop();
  } else if (dialog.value === "key") {
    return; // nothing goes before the key
  } else if (isCommand && key === "k") {
    dialog.value = dialog.value === "palette" ? null : "palette";
  } else if (isCommand && event.shiftKey && key === "o") {
    dialog.value = null;
    newChat();
  } else if (isCommand && key === ",") {
    dialog.value = "settings";
  } else if (isCommand && key === "/") {
    dialog.value = "shortcuts";
  } else if (key === "/" && !isTyping && !dialog.value) {
    focusComposer();
  } else {
    return;
  }
  event.preventDefault();
}
