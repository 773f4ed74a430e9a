/**
 * Conversations in IndexedDB. Each has a revision: who saves says which one the change was made on, so that two tabs
 * find out about each other instead of overwriting.
 */

import { type DBSchema, type IDBPDatabase, openDB } from "idb";
import type { Conversation } from "./types";

/** What the sidebar needs, without the messages. */
export type Summary = { id: string; title: string; created: number; updated: number };

export type Stored = { conversation: Conversation; revision: number };

/** What tabs tell each other. `running`: a reply is being written there. */
export type Notice =
  | { id: string; kind: "saved"; revision: number; running: boolean }
  | { id: string; kind: "removed" };

interface Schema extends DBSchema {
  summaries: { key: string; value: Summary };
  conversations: { key: string; value: { id: string; revision: number; conversation: Conversation } };
}

export class Storage {
  private readonly channel = new BroadcastChannel("ochatctl");

  private constructor(private readonly db: IDBPDatabase<Schema>) {}

  static async open(name = "ochatctl"): Promise<Storage> {
    const db = await openDB<Schema>(name, 1, {
      upgrade(fresh) {
        fresh.createObjectStore("summaries", { keyPath: "id" });
        fresh.createObjectStore("conversations", { keyPath: "id" });
      },
    });
    return new Storage(db);
  }

  onNotice(hear: (notice: Notice) => void): void {
    this.channel.onmessage = (event: MessageEvent<Notice>) => hear(event.data);
  }

  summaries(): Promise<Summary[]> {
    return this.db.getAll("summaries");
  }

  async load(id: string): Promise<Stored | undefined> {
    return this.db.get("conversations", id);
  }

  async all(): Promise<Conversation[]> {
    return (await this.db.getAll("conversations")).map((stored) => stored.conversation);
  }

  /**
   * Saves a change that was made on `revision` (0: a new conversation), and gives the new revision; null, and nothing
   * is saved, where another tab has saved since.
   */
  async save(conversation: Conversation, revision: number, running = false): Promise<number | null> {
    const { id, title, created, updated } = conversation;
    const transaction = this.db.transaction(["summaries", "conversations"], "readwrite");
    const conversations = transaction.objectStore("conversations");
    const there = await conversations.get(id);
    // What was deleted elsewhere and is still written here comes back.
    if (there && there.revision !== revision) {
      await transaction.done;
      return null;
    }
    const next = revision + 1;
    void conversations.put({ id, revision: next, conversation });
    void transaction.objectStore("summaries").put({ id, title, created, updated });
    await transaction.done;
    this.channel.postMessage({ id, kind: "saved", revision: next, running } satisfies Notice);
    return next;
  }

  async remove(id: string): Promise<void> {
    const transaction = this.db.transaction(["summaries", "conversations"], "readwrite");
    void transaction.objectStore("summaries").delete(id);
    void transaction.objectStore("conversations").delete(id);
    await transaction.done;
    this.channel.postMessage({ id, kind: "removed" } satisfies Notice);
  }

  close(): void {
    this.channel.close();
    this.db.close();
  }
}
