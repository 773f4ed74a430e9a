import { useEffect, useLayoutEffect, useRef } from "preact/hooks";
import { CTRL } from "../keyboard";
import { exportAll, exportOne, importFiles, newChat, openConversation, remove, rename } from "../library";
import { current, dialog, isLoaded, renaming, running, sidebarIsOpen, summaries } from "../state";
import type { Summary } from "../storage";
import { nextTheme, theme } from "../theme";
import { Icon, Logo } from "./Icons";
import { Menu } from "./Menu";

const DAY_MS = 86_400_000;

/** Gives the conversations under headings of when they were last written in. */
function byTime(all: readonly Summary[]): [string, Summary[]][] {
  const today = new Date().setHours(0, 0, 0, 0);
  const groups: [string, number, Summary[]][] = [
    ["Today", today, []],
    ["Yesterday", today - DAY_MS, []],
    ["Last 7 days", today - 7 * DAY_MS, []],
    ["Earlier", Number.NEGATIVE_INFINITY, []],
  ];
  for (const summary of all) groups.find(([, since]) => summary.updated >= since)?.[2].push(summary);
  return groups.filter(([, , found]) => found.length).map(([name, , found]) => [name, found]);
}

export function Sidebar() {
  const file = useRef<HTMLInputElement>(null);
  const nav = useRef<HTMLElement>(null);
  const isOpen = sidebarIsOpen.value;
  useEffect(() => {
    if (isOpen) nav.current?.querySelector<HTMLElement>("[data-testid=sidebar-close]")?.focus();
  }, [isOpen]);
  const themeName = { light: "light", dark: "dark", system: "as the system" }[theme.value];
  return (
    <>
      <nav
        ref={nav}
        id="sidebar"
        class={isOpen ? "sidebar open" : "sidebar"}
        data-testid="sidebar"
        aria-label="Chats"
        onKeyDown={(event) => {
          if (event.key === "Escape" && isOpen) closeSidebar();
        }}
      >
        <div class="sidebar-head">
          <Logo />
          <span class="brand">ochatctl</span>
          <button
            type="button"
            class="icon-button only-narrow"
            data-testid="sidebar-close"
            aria-label="Close the list of chats"
            onClick={closeSidebar}
          >
            <Icon name="close" />
          </button>
        </div>
        <div class="sidebar-start">
          <button type="button" class="new-chat" data-testid="new-chat" onClick={newChat}>
            <Icon name="plus" />
            New chat
          </button>
          <button
            type="button"
            class="icon-button"
            data-testid="find"
            aria-label="Find a chat"
            title={`Find a chat (${CTRL} K)`}
            aria-haspopup="dialog"
            onClick={() => {
              dialog.value = "palette";
            }}
          >
            <Icon name="find" />
          </button>
        </div>
        <div class="conversations">
          {isLoaded.value && !summaries.value.length && (
            <p class="sidebar-note">Chats are kept in this browser, and nowhere else.</p>
          )}
          {byTime(summaries.value).map(([name, found]) => (
            <section key={name} aria-label={name}>
              <h2 class="group">{name}</h2>
              <ul>
                {found.map((summary) => (
                  <Item key={summary.id} summary={summary} />
                ))}
              </ul>
            </section>
          ))}
        </div>
        <div class="sidebar-foot">
          <button
            type="button"
            class="icon-button"
            data-testid="import"
            aria-label="Import chats"
            title="Import chats"
            onClick={() => file.current?.click()}
          >
            <Icon name="upload" />
          </button>
          <input
            ref={file}
            type="file"
            class="hidden"
            tabindex={-1}
            aria-label="File with chats to import"
            data-testid="import-input"
            accept=".json,.jsonl,application/json"
            multiple
            onChange={(event) => {
              const input = event.currentTarget;
              void importFiles(Array.from(input.files ?? []));
              input.value = "";
            }}
          />
          <button
            type="button"
            class="icon-button"
            data-testid="export-all"
            aria-label="Export all chats"
            title="Export all chats"
            onClick={() => void exportAll()}
          >
            <Icon name="download" />
          </button>
          <button
            type="button"
            class="icon-button"
            data-testid="shortcuts"
            aria-label="Keyboard shortcuts"
            title="Keyboard shortcuts"
            onClick={() => {
              dialog.value = "shortcuts";
            }}
          >
            <Icon name="keyboard" />
          </button>
          <button
            type="button"
            class="icon-button push"
            data-testid="theme"
            aria-label={`Colours: ${themeName}`}
            title={`Colours: ${themeName}`}
            onClick={nextTheme}
          >
            <Icon name={{ light: "sun", dark: "moon", system: "auto" }[theme.value] as "sun"} />
          </button>
        </div>
      </nav>
      {isOpen && <div class="scrim" onClick={closeSidebar} />}
    </>
  );
}

export function closeSidebar(): void {
  sidebarIsOpen.value = false;
  document.querySelector<HTMLElement>("[data-testid=sidebar-open]")?.focus();
}

function Item({ summary }: { summary: Summary }) {
  const { id } = summary;
  const title = summary.title || "Untitled";
  const isCurrent = current.value.conversation.value.id === id;
  if (renaming.value === id) return <Rename id={id} title={summary.title} />;
  return (
    <li class={isCurrent ? "conversation current" : "conversation"} data-testid="conversation" data-id={id}>
      <a
        href={`#/c/${id}`}
        data-testid="conversation-open"
        aria-current={isCurrent ? "page" : undefined}
        title={title}
        dir="auto"
        onClick={(event) => {
          if (event.ctrlKey || event.metaKey || event.shiftKey) return; // a tab of its own
          event.preventDefault();
          void openConversation(id);
        }}
      >
        {title}
        {running.value.has(id) && <span class="busy" role="img" aria-label="A reply is being written" />}
      </a>
      <Menu
        testid="conversation-menu"
        label={`Actions for “${title}”`}
        items={[
          {
            testid: "menu-rename",
            label: "Rename",
            icon: "edit",
            act: () => {
              renaming.value = id;
            },
          },
          {
            testid: "menu-export-openai",
            label: "Export as OpenAI messages",
            icon: "download",
            act: () => void exportOne(id, "openai"),
          },
          {
            testid: "menu-export-sharegpt",
            label: "Export as ShareGPT",
            icon: "download",
            act: () => void exportOne(id, "sharegpt"),
          },
          { testid: "menu-delete", label: "Delete", icon: "trash", isDangerous: true, act: () => void remove(id) },
        ]}
      />
    </li>
  );
}

function Rename({ id, title }: { id: string; title: string }) {
  const input = useRef<HTMLInputElement>(null);
  // Before anybody can type, as where a message is edited.
  useLayoutEffect(() => {
    input.current?.focus();
    input.current?.select();
  }, []);
  const end = (keep: boolean) => {
    if (renaming.value !== id) return;
    const name = input.current?.value ?? "";
    renaming.value = null;
    if (keep) void rename(id, name);
    requestAnimationFrame(() =>
      document.querySelector<HTMLElement>(`[data-id="${id}"] [data-testid=conversation-open]`)?.focus(),
    );
  };
  return (
    <li class="conversation current" data-testid="conversation" data-id={id}>
      <input
        ref={input}
        class="rename"
        data-testid="rename-input"
        dir="auto"
        aria-label="New title"
        defaultValue={title}
        maxLength={200}
        onBlur={() => end(true)}
        onKeyDown={(event) => {
          if (event.isComposing) return;
          if (event.key === "Enter") end(true);
          if (event.key === "Escape") end(false);
          event.stopPropagation();
        }}
      />
    </li>
  );
}
