/** What a person does with a conversation: send, stop, regenerate, edit, continue. */

import { ApiError, chatBody, fetchModels, fetchVersion, streamChat, type Usage } from "./api";
import { nextFrame } from "./frame";
import { newId } from "./ids";
import { forgetKey } from "./key";
import { change, flush, nameAddress } from "./library";
import { announce, notify, withdraw } from "./notices";
import {
  current,
  dialog,
  type Entry,
  editing,
  isUnderWay,
  keyWasWrong,
  models,
  type Run,
  running,
  server,
  version,
} from "./state";
import { titleOf } from "./titles";
import type { Conversation, Message } from "./types";

const ASK_AGAIN_MS = 5000;
let asking = 0;
/** What is done once a key was given. */
let afterKey: (() => void) | null = null;

/** Asks the server what it serves; again and again while it cannot be reached. */
export async function connect(): Promise<void> {
  window.clearTimeout(asking);
  try {
    [models.value, version.value] = await Promise.all([fetchModels(), fetchVersion()]);
    server.value = "ready";
    if (dialog.value === "key") dialog.value = null;
    const then = afterKey;
    afterKey = null;
    then?.();
  } catch (error) {
    if (error instanceof ApiError && error.status === 401) {
      askForKey(error);
      return;
    }
    server.value = "down";
    asking = window.setTimeout(() => void connect(), ASK_AGAIN_MS);
  }
}

function askForKey(error: ApiError, then: (() => void) | null = null): void {
  server.value = "locked";
  keyWasWrong.value = /wrong/i.test(error.message);
  afterKey = then ?? afterKey;
  dialog.value = "key";
}

export function giveUpKey(): void {
  afterKey = null;
  dialog.value = null;
}

export function forgetKeyAndAsk(): void {
  forgetKey();
  dialog.value = null;
  void connect();
}

/** Sends what was typed. Gives whether it was taken. */
export function send(text: string): boolean {
  const entry = current.value;
  if (!text.trim() || isUnderWay(entry)) return false;
  withdraw(entry);
  const asked: Message = { id: newId(), role: "user", content: text.replace(/\s+$/, "") };
  change(entry, (conversation) => {
    const messages = [...withoutEmptyReply(conversation.messages), asked];
    return { ...conversation, messages, title: conversation.title || titleOf(messages) };
  });
  nameAddress(entry);
  answer(entry);
  return true;
}

export function stop(): void {
  current.value.run.value?.abort.abort();
}

/** Draws a reply again; the old one can be had back. */
export function regenerate(messageId: string): void {
  const entry = current.value;
  if (isUnderWay(entry)) return;
  const before = entry.conversation.value.messages;
  const index = before.findIndex((message) => message.id === messageId);
  if (index < 1) return;
  withdraw(entry);
  change(entry, (conversation) => ({ ...conversation, messages: before.slice(0, index) }));
  if (before[index]?.content) offerBack(entry, before, "The earlier reply was replaced.");
  answer(entry);
}

/** Replaces a question and cuts what followed it; that can be had back. */
export function saveEdit(messageId: string, text: string): void {
  const entry = current.value;
  editing.value = null;
  if (isUnderWay(entry) || !text.trim()) return;
  const before = entry.conversation.value.messages;
  const index = before.findIndex((message) => message.id === messageId);
  const old = before[index];
  if (!old) return;
  withdraw(entry);
  const edited = { ...old, id: newId(), content: text.replace(/\s+$/, "") };
  change(entry, (conversation) => ({ ...conversation, messages: [...before.slice(0, index), edited] }));
  const numCut = before.length - index - 1;
  offerBack(entry, before, `Message edited; ${numCut} below it ${numCut === 1 ? "was" : "were"} removed.`);
  answer(entry);
}

/** Goes on with a reply that was cut. */
export function continueReply(messageId: string): void {
  const entry = current.value;
  const last = entry.conversation.value.messages.at(-1);
  if (isUnderWay(entry) || last?.id !== messageId || !last.content) return;
  withdraw(entry);
  void run(entry, messageId);
}

function offerBack(entry: Entry, messages: Message[], text: string): void {
  notify(text, {
    of: entry,
    undo: () => {
      entry.run.value?.abort.abort();
      change(entry, (conversation) => ({ ...conversation, messages }));
      void flush(entry);
    },
  });
}

function withoutEmptyReply(messages: Message[]): Message[] {
  const last = messages.at(-1);
  return last?.role === "assistant" && !last.content ? messages.slice(0, -1) : messages;
}

function answer(entry: Entry): void {
  const reply: Message = { id: newId(), role: "assistant", content: "" };
  change(entry, (conversation) => ({ ...conversation, messages: [...conversation.messages, reply] }));
  void run(entry, reply.id);
}

function setMessage(entry: Entry, id: string, edit: (message: Message) => Message): void {
  const { messages } = entry.conversation.value;
  if (!messages.some((message) => message.id === id)) return; // it was cut or undone meanwhile
  change(entry, (conversation) => ({
    ...conversation,
    messages: messages.map((message) => (message.id === id ? edit(message) : message)),
  }));
}

function modelName(conversation: Conversation): string {
  const isServed = models.value.some((card) => card.id === conversation.model);
  return isServed ? conversation.model : (models.value[0]?.id ?? conversation.model);
}

/** Streams a reply into a message, which may hold its beginning already. */
async function run(entry: Entry, messageId: string): Promise<void> {
  const mine: Run = { messageId, abort: new AbortController() };
  entry.run.value = mine;
  const { id } = entry.conversation.value;
  running.value = new Set(running.value).add(id);
  setMessage(entry, messageId, ({ id, role, content, numTokens }) => ({ id, role, content, numTokens }));
  announce("Writing a reply");

  let waiting = "";
  let callOff: (() => void) | null = null;
  const show = () => {
    callOff = null;
    const text = waiting;
    waiting = "";
    if (text) setMessage(entry, messageId, (message) => ({ ...message, content: message.content + text }));
  };
  const beganAt = performance.now();
  let firstAt = 0;
  let numPieces = 0;
  let reason = "";
  let usage: Usage | undefined;
  let fault: unknown;
  try {
    if (!models.value.length) models.value = await fetchModels();
    const body = chatBody(entry.conversation.value, modelName(entry.conversation.value));
    for await (const piece of streamChat(body, mine.abort.signal)) {
      if (piece.kind === "text") {
        firstAt ||= performance.now();
        numPieces += 1;
        waiting += piece.text;
        callOff ??= nextFrame(show);
      } else if (piece.kind === "finish") reason = piece.reason;
      else if (piece.kind === "usage") usage = piece.usage;
      else notify(piece.text);
    }
  } catch (error) {
    fault = error;
  }
  callOff?.();
  show();
  if (mine.abort.signal.aborted) [fault, reason] = [undefined, "stopped"];
  const tokensPerSecond = usage && speed(usage.completion_tokens, numPieces, beganAt, firstAt);
  setMessage(entry, messageId, (message) => ({
    ...message,
    ...(reason && { finishReason: reason }),
    ...(usage && { numTokens: (message.numTokens ?? 0) + usage.completion_tokens }),
    ...(tokensPerSecond && { tokensPerSecond }),
    ...(fault !== undefined && { error: inWords(fault) }),
  }));
  if (entry.run.value === mine) entry.run.value = null;
  const rest = new Set(running.value);
  rest.delete(id);
  rest.delete(entry.conversation.value.id);
  running.value = rest;
  announce(fault ? `The reply failed. ${inWords(fault)}` : reason === "stopped" ? "Stopped" : "The reply is complete");
  void flush(entry);
  if (fault instanceof ApiError) afterFault(fault, entry, messageId);
  else if (server.value === "down") void connect();
}

/** Gives tokens a second without the prompt's time: the first piece, which may hold several tokens, waits for that. */
function speed(numTokens: number, numPieces: number, beganAt: number, firstAt: number): number {
  const [share, since] = numPieces > 1 ? [(numPieces - 1) / numPieces, firstAt] : [1, beganAt];
  return (numTokens * share * 1000) / Math.max(1, performance.now() - since);
}

function afterFault(fault: ApiError, entry: Entry, messageId: string): void {
  if (fault.status === 401) {
    askForKey(fault, () => {
      if (current.value !== entry) return;
      if (entry.conversation.value.messages.at(-1)?.content) continueReply(messageId);
      else regenerate(messageId);
    });
  } else if (fault.status === 0 && !fault.code) {
    void connect();
  } else if (fault.code === "model_not_found") {
    models.value = [];
    void connect();
  }
  if (fault.retryAfterSeconds) waits.set(messageId, Date.now() + fault.retryAfterSeconds * 1000);
}

/** Until when a failed message had better not be tried again. */
export const waits = new Map<string, number>();

function inWords(fault: unknown): string {
  if (!(fault instanceof ApiError)) return `Something went wrong in this page: ${String(fault)}`;
  if (fault.status === 401) return "The server wants an API key.";
  if (fault.code === "context_length_exceeded") return `${fault.message} Start a new chat, or edit an earlier message.`;
  return fault.message;
}
