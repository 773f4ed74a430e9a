/** What the page is drawn from. Signals are changed in `actions.ts` and by what storage and other tabs say. */

import { computed, type Signal, signal } from "@preact/signals";
import type { ModelCard, Version } from "./api";
import { newId } from "./ids";
import type { Summary } from "./storage";
import type { Conversation, Params } from "./types";

/** What a new conversation starts with, as its user set it. */
export type Defaults = { system: string; model: string; condition: string; params: Params };

export const NO_DEFAULTS: Defaults = { system: "", model: "", condition: "", params: {} };
const DEFAULTS_NAME = "ochatctl.defaults";

/** A reply that is being written in this tab. */
export type Run = { messageId: string; abort: AbortController };

/** A conversation that this tab has open, or is answering in the background. */
export type Entry = {
  conversation: Signal<Conversation>;
  run: Signal<Run | null>;
  /** Until when another tab is taken to be answering it, as `Date.now()` counts. */
  remoteUntil: Signal<number>;
  /** The revision in storage that this one comes from; 0: not stored yet. */
  revision: number;
  isDirty: boolean;
  /** It was deleted: what still comes for it is not kept. */
  isGone: boolean;
};

export type Toast = {
  id: string;
  text: string;
  undo?: () => void;
  /** The conversation whose messages `undo` puts back: no longer offered once it has gone on. */
  of?: Entry;
  isError?: boolean;
};
export type DialogName = "settings" | "key" | "palette" | "shortcuts";
export type ServerState = "loading" | "ready" | "locked" | "down";

export const server = signal<ServerState>("loading");
export const models = signal<ModelCard[]>([]);
export const version = signal<Version | null>(null);

export const summaries = signal<Summary[]>([]);
export const storageFault = signal("");
export const isLoaded = signal(false);

export const current = signal<Entry>(newEntry(newConversation()));
export const running = signal<ReadonlySet<string>>(new Set());

export const dialog = signal<DialogName | null>(null);
export const keyWasWrong = signal(false);
export const toasts = signal<Toast[]>([]);
export const announcement = signal("");
/** Files are held over the page. */
export const isDropping = signal(false);
export const sidebarIsOpen = signal(false);
export const editing = signal<string | null>(null);
export const renaming = signal<string | null>(null);

/** The model that a request for the current conversation names: the chosen one where it is served. */
export const model = computed<ModelCard | undefined>(() => {
  const wanted = current.value.conversation.value.model;
  return models.value.find((card) => card.id === wanted) ?? models.value[0];
});

export function newEntry(conversation: Conversation, revision = 0): Entry {
  return {
    conversation: signal(conversation),
    run: signal<Run | null>(null),
    remoteUntil: signal(0),
    revision,
    isDirty: false,
    isGone: false,
  };
}

export function loadDefaults(): Defaults {
  try {
    return { ...NO_DEFAULTS, ...JSON.parse(localStorage.getItem(DEFAULTS_NAME) ?? "{}") };
  } catch {
    return NO_DEFAULTS;
  }
}

/** Whether it could be kept. */
export function saveDefaults(defaults: Defaults): boolean {
  try {
    localStorage.setItem(DEFAULTS_NAME, JSON.stringify(defaults));
    return true;
  } catch {
    return false;
  }
}

export function newConversation(): Conversation {
  const now = Date.now();
  return { id: newId(), title: "", created: now, updated: now, messages: [], ...loadDefaults() };
}

export function isUnderWay(entry: Entry): boolean {
  return entry.run.value !== null || entry.remoteUntil.value > Date.now();
}
