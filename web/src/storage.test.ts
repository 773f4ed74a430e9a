import "fake-indexeddb/auto";
import { afterEach, expect, test } from "vitest";
import { type Notice, Storage } from "./storage";
import type { Conversation } from "./types";

let count = 0;
const open: Storage[] = [];

async function tab(name: string): Promise<Storage> {
  const storage = await Storage.open(name);
  open.push(storage);
  return storage;
}

afterEach(() => {
  for (const storage of open.splice(0)) storage.close();
});

function chat(id: string, title = id): Conversation {
  return { id, title, created: 1, updated: 2, system: "", model: "", condition: "", params: {}, messages: [] };
}

test("what is saved is there, with its summary", async () => {
  const storage = await tab(`t${++count}`);
  expect(await storage.save(chat("a"), 0)).toBe(1);
  expect(await storage.load("a")).toMatchObject({ revision: 1, conversation: chat("a") });
  expect(await storage.summaries()).toEqual([{ id: "a", title: "a", created: 1, updated: 2 }]);
});

test("a tab that saves on an old revision is told, and overwrites nothing", async () => {
  const name = `t${++count}`;
  const [first, second] = [await tab(name), await tab(name)];
  expect(await first.save(chat("a", "one"), 0)).toBe(1);
  expect(await second.save(chat("a", "two"), 1)).toBe(2);
  expect(await first.save(chat("a", "lost?"), 1)).toBeNull();
  expect((await first.load("a"))?.conversation.title).toBe("two");
});

test("what was deleted elsewhere and is still written comes back", async () => {
  const storage = await tab(`t${++count}`);
  await storage.save(chat("a"), 0);
  await storage.remove("a");
  expect(await storage.load("a")).toBeUndefined();
  expect(await storage.summaries()).toEqual([]);
  expect(await storage.save(chat("a"), 1)).toBe(2);
});

test("other tabs hear of a save and of a deletion", async () => {
  const name = `t${++count}`;
  const [writer, listener] = [await tab(name), await tab(name)];
  const heard: Notice[] = [];
  const both = new Promise<void>((done) => {
    listener.onNotice((notice) => {
      heard.push(notice);
      if (heard.length === 2) done();
    });
  });
  await writer.save(chat("a"), 0, true);
  await writer.remove("a");
  await both;
  expect(heard).toEqual([
    { id: "a", kind: "saved", revision: 1, running: true },
    { id: "a", kind: "removed" },
  ]);
});
