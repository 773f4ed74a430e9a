/** The conversations: opening, saving, what other tabs did, renaming, deleting, importing, exporting. */

import { focusComposer, keepFocus } from "./focus";
import { exportOpenAI, exportShareGPT, importFile } from "./formats";
import { newId } from "./ids";
import { announce, notify } from "./notices";
import {
  current,
  type Entry,
  editing,
  isLoaded,
  newConversation,
  newEntry,
  sidebarIsOpen,
  storageFault,
  summaries,
} from "./state";
import { type Notice, Storage } from "./storage";
import type { Conversation } from "./types";

const SAVE_EVERY_MS = 400;
/** Another tab that answers saves several times in this time. */
const REMOTE_MS = 4000;
const COPY_NOTICE = "This chat was changed in another tab. What you did here is kept as a copy.";

let storage: Storage | null = null;
const entries = new Map<string, Entry>();
const timers = new Map<Entry, number>();
const saves = new Map<Entry, Promise<void>>();

/** Opens storage, and the conversation that the address names. */
export async function loadLibrary(): Promise<void> {
  try {
    storage = await Storage.open();
    storage.onNotice((notice) => void heard(notice));
    await refresh();
  } catch (error) {
    storageFault.value = `Chats cannot be kept in this browser (${reason(error)}). Export what you need before you leave.`;
  }
  window.addEventListener("hashchange", () => void openAddress());
  window.addEventListener("pagehide", () => {
    for (const entry of entries.values()) if (entry.isDirty) void flush(entry);
  });
  await openAddress();
  isLoaded.value = true;
}

/** Changes a conversation and has it saved. `at`: the change is one that a list sorted by time shows. */
export function change(entry: Entry, edit: (conversation: Conversation) => Conversation, at = Date.now()): void {
  entry.conversation.value = { ...edit(entry.conversation.value), updated: at };
  if (entry.isGone) return;
  entry.isDirty = true;
  entries.set(entry.conversation.value.id, entry);
  if (!timers.has(entry))
    timers.set(
      entry,
      window.setTimeout(() => void flush(entry), SAVE_EVERY_MS),
    );
}

/** Saves what has changed, after what is being saved already. */
export function flush(entry: Entry): Promise<void> {
  window.clearTimeout(timers.get(entry));
  timers.delete(entry);
  const done = (saves.get(entry) ?? Promise.resolve()).then(() => save(entry));
  saves.set(entry, done);
  return done;
}

async function save(entry: Entry): Promise<void> {
  if (!entry.isDirty || !storage) return;
  const { value } = entry.conversation;
  entry.isDirty = false;
  try {
    const revision = await storage.save(value, entry.revision, entry.run.value !== null);
    if (revision === null) return await saveCopy(entry);
    entry.revision = revision;
    storageFault.value = "";
  } catch (error) {
    entry.isDirty = true;
    storageFault.value = `The chat could not be saved (${reason(error)}).`;
  }
  await refresh();
}

/** Keeps what was changed here beside what another tab saved under the same id. */
async function saveCopy(entry: Entry): Promise<void> {
  const { id, title } = entry.conversation.value;
  const copy = { ...entry.conversation.value, id: newId(), title: `${title} (copy)` };
  entries.delete(id);
  entries.set(copy.id, entry);
  entry.conversation.value = copy;
  entry.revision = 0;
  entry.isDirty = true;
  if (current.value === entry) showAddress(copy.id);
  notify(COPY_NOTICE);
  await save(entry);
}

async function refresh(): Promise<void> {
  if (!storage) return;
  summaries.value = (await storage.summaries()).sort((a, b) => b.updated - a.updated);
}

async function heard(notice: Notice): Promise<void> {
  await refresh();
  const entry = entries.get(notice.id);
  if (!entry || !storage) return;
  if (notice.kind === "removed") {
    if (entry.run.value || entry.isDirty) return; // it is written here, and comes back with the next save
    entries.delete(notice.id);
    if (current.value === entry) {
      newChat();
      notify("The chat was deleted in another tab.");
    }
    return;
  }
  if (entry.run.value || entry.isDirty || notice.revision <= entry.revision) return;
  await saves.get(entry); // what is being saved here may be refused, and is then kept as a copy
  const stored = await storage.load(notice.id);
  if (!stored || entry.run.value || entry.isDirty) return;
  // Meanwhile it may have been saved here: as a copy, under another id, or over this one.
  if (entries.get(notice.id) !== entry || stored.revision <= entry.revision) return;
  entry.conversation.value = stored.conversation;
  entry.revision = stored.revision;
  const until = notice.running ? Date.now() + REMOTE_MS : 0;
  entry.remoteUntil.value = until;
  if (!until) return;
  window.setTimeout(() => {
    if (entry.remoteUntil.value === until) entry.remoteUntil.value = 0; // nothing more was heard
  }, REMOTE_MS);
}

function showAddress(id: string): void {
  history.replaceState(null, "", id ? `#/c/${id}` : "#/");
}

async function openAddress(): Promise<void> {
  const id = /^#\/c\/([\w-]+)$/.exec(location.hash)?.[1];
  if (!id) {
    if (current.value.conversation.value.messages.length) newChat();
    return;
  }
  await openConversation(id);
}

/** Shows a conversation. */
export async function openConversation(id: string): Promise<void> {
  sidebarIsOpen.value = false;
  if (current.value.conversation.value.id === id && entries.has(id)) return;
  let entry = entries.get(id);
  if (!entry) {
    const stored = await storage?.load(id).catch(() => undefined);
    if (!stored) {
      newChat();
      notify("There is no such chat in this browser.");
      return;
    }
    entry = newEntry(stored.conversation, stored.revision);
    entries.set(id, entry);
  }
  editing.value = null;
  current.value = entry;
  if (location.hash !== `#/c/${id}`) history.pushState(null, "", `#/c/${id}`);
}

/** Shows an empty conversation, which is kept from its first message on. */
export function newChat(): void {
  sidebarIsOpen.value = false;
  editing.value = null;
  current.value = newEntry(newConversation());
  if (location.hash !== "#/" && location.hash !== "") history.pushState(null, "", "#/");
  focusComposer();
}

/** Gives the conversation its address, once there is something to come back to. */
export function nameAddress(entry: Entry): void {
  if (current.value === entry) showAddress(entry.conversation.value.id);
}

async function entryOf(id: string): Promise<Entry | undefined> {
  const open = entries.get(id);
  if (open) return open;
  const stored = await storage?.load(id);
  return stored && newEntry(stored.conversation, stored.revision);
}

export async function rename(id: string, title: string): Promise<void> {
  const entry = await entryOf(id);
  if (!entry || !title.trim()) return;
  change(entry, (conversation) => ({ ...conversation, title: title.trim() }), entry.conversation.value.updated);
  await flush(entry);
}

export async function remove(id: string): Promise<void> {
  const entry = await entryOf(id);
  if (!entry) return;
  entry.isGone = true;
  entry.run.value?.abort.abort();
  window.clearTimeout(timers.get(entry));
  timers.delete(entry);
  entries.delete(id);
  entry.isDirty = false;
  const isShown = current.value.conversation.value.id === id;
  await saves.get(entry);
  await storage?.remove(id);
  await refresh();
  if (isShown) newChat();
  keepFocus();
  const { conversation } = entry;
  notify(`Deleted “${conversation.value.title}”.`, {
    undo: () => void putBack(conversation.value, isShown),
  });
}

async function putBack(conversation: Conversation, show: boolean): Promise<void> {
  const entry = newEntry(conversation);
  change(entry, (same) => same, conversation.updated);
  await flush(entry);
  if (show) await openConversation(conversation.id);
}

export async function importFiles(files: Iterable<File>): Promise<void> {
  for (const file of files) {
    try {
      const found = importFile(await file.text());
      // Ids of their own: importing what was exported here overwrites nothing.
      for (const conversation of found) {
        const entry = newEntry({ ...conversation, id: newId() });
        change(entry, (same) => same, conversation.updated);
        await flush(entry);
      }
      notify(`Imported ${found.length === 1 ? "1 chat" : `${found.length} chats`} from ${file.name}.`);
      announce("Import finished");
      const first = found.length === 1 && summaries.value[0];
      if (first && first.title === found[0]?.title) await openConversation(first.id);
    } catch (error) {
      notify(`${file.name}: ${reason(error)}`, { isError: true });
    }
  }
}

export async function exportOne(id: string, format: "openai" | "sharegpt"): Promise<void> {
  const entry = await entryOf(id);
  if (!entry) return;
  const { value } = entry.conversation;
  const text = format === "openai" ? exportOpenAI(value) : exportShareGPT([value]);
  download(`${fileName(value.title)}.${format}.json`, text);
}

export async function exportAll(): Promise<void> {
  for (const entry of entries.values()) await flush(entry);
  const all = (await storage?.all()) ?? Array.from(entries.values(), (entry) => entry.conversation.value);
  if (!all.length) return notify("There is no chat to export yet.");
  download("chats.sharegpt.json", exportShareGPT(all));
}

function fileName(title: string): string {
  return (
    title
      .normalize("NFKC")
      .replace(/[^\p{L}\p{N}]+/gu, "-")
      .replace(/^-+|-+$/g, "")
      .slice(0, 60) || "chat"
  );
}

function download(name: string, text: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = name;
  link.click();
  window.setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

function reason(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
