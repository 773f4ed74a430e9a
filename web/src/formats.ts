/**
 * Conversations as files: OpenAI's messages and ShareGPT's JSON, out and in.
 *
 * What is exported is read back here without loss, and by `ochatctl data clean`.
 */

import { newId } from "./ids";
import { titleOf } from "./titles";
import type { Conversation, Message, Params, Role } from "./types";

const MAX_FILE_CHARS = 50_000_000;
/** What people's files call the two sides and the system message; `data clean` has the same names. */
const ROLES: Record<string, Role | "system"> = {
  ...Object.fromEntries(
    ["human", "user", "prompter", "question", "instruction"].map((name) => [name, "user" as const]),
  ),
  ...Object.fromEntries(
    "gpt assistant chatgpt bot chatbot ai model bing bard claude answer".split(" ").map((name) => [name, "assistant"]),
  ),
  system: "system",
  developer: "system",
};
const WIRE_PARAMS = { temperature: "temperature", topP: "top_p", maxTokens: "max_tokens", seed: "seed" } as const;

type Table = Record<string, unknown>;

/** Gives a conversation as OpenAI's messages, with what a request would say beside them. */
export function exportOpenAI(conversation: Conversation): string {
  const system = conversation.system.trim() ? [{ role: "system", content: conversation.system }] : [];
  const messages = spoken(conversation).map(({ role, content }) => ({ role, content }));
  return toText({ ...about(conversation), messages: [...system, ...messages] });
}

/** Gives conversations as ShareGPT's JSON. */
export function exportShareGPT(conversations: readonly Conversation[]): string {
  return toText(
    conversations.map((conversation) => {
      const system = conversation.system.trim() ? [{ from: "system", value: conversation.system }] : [];
      const turns = spoken(conversation).map(({ role, content }) => ({
        from: role === "user" ? "human" : "gpt",
        value: content,
      }));
      return { ...about(conversation), conversations: [...system, ...turns] };
    }),
  );
}

/**
 * Reads what was exported here or elsewhere: one conversation or a list of them, as JSON or one a line.
 *
 * Throws an Error for people: what is wrong, and in which conversation.
 */
export function importFile(text: string): Conversation[] {
  if (text.length > MAX_FILE_CHARS) throw new Error("the file is larger than 50 MB");
  const values = parse(text.replace(/^\uFEFF/, ""));
  const now = Date.now();
  const out = values.map((value, index) => {
    const where = values.length > 1 ? `conversation ${index + 1}: ` : "";
    // A list shows the newest first: what stands first in the file does so there too.
    return toConversation(value, where, now - index);
  });
  if (!out.length) throw new Error("there is no conversation in this file");
  return out;
}

/** A turn without a text says nothing, as a reply that failed at once. */
function spoken(conversation: Conversation): Message[] {
  return conversation.messages.filter((message) => message.content.trim() !== "");
}

function about({ id, title, created, updated, model, condition, params }: Conversation): Table {
  const out: Table = { id, title };
  if (model) out.model = model;
  if (condition) out.condition = condition;
  for (const [name, wire] of Object.entries(WIRE_PARAMS)) {
    const value = params[name as keyof Params];
    if (value !== undefined) out[wire] = value;
  }
  return { ...out, created: new Date(created).toISOString(), updated: new Date(updated).toISOString() };
}

function toText(value: unknown): string {
  return `${JSON.stringify(value, null, 2)}\n`;
}

function parse(text: string): unknown[] {
  if (!text.trim()) throw new Error("the file is empty");
  let whole: unknown;
  try {
    whole = JSON.parse(text);
  } catch (error) {
    const lines = text.split(/\r?\n/).filter((line) => line.trim());
    if (lines.length < 2 || !isJson(lines[0] ?? "")) throw new Error(`this is not JSON (${said(error)})`);
    return lines.map((line, index) => {
      try {
        return JSON.parse(line);
      } catch (fault) {
        throw new Error(`line ${index + 1} is not JSON (${said(fault)})`);
      }
    });
  }
  if (!Array.isArray(whole)) return [whole];
  // A bare list of messages is one conversation.
  return whole.length && whole.every((each) => isTable(each) && roleName(each) !== undefined) ? [whole] : whole;
}

function isJson(line: string): boolean {
  try {
    JSON.parse(line);
    return true;
  } catch {
    return false;
  }
}

function toConversation(value: unknown, where: string, now: number): Conversation {
  const table: Table = Array.isArray(value) ? { messages: value } : isTable(value) ? value : {};
  const turns = table.messages ?? table.conversations ?? table.conversation ?? table.items;
  if (!Array.isArray(turns)) {
    throw new Error(`${where}neither \`messages\` (OpenAI) nor \`conversations\` (ShareGPT) is there`);
  }
  const systems = [textOf(table.system)].filter((text) => text !== undefined && text.trim() !== "");
  const messages: Message[] = [];
  turns.forEach((turn: unknown, index) => {
    const at = `${where}message ${index + 1} `;
    if (!isTable(turn)) throw new Error(`${at}is not an object`);
    const name = roleName(turn);
    if (name === undefined) throw new Error(`${at}does not say who speaks: \`role\` (OpenAI) or \`from\` (ShareGPT)`);
    const role = Object.hasOwn(ROLES, name.toLowerCase()) ? ROLES[name.toLowerCase()] : undefined;
    if (!role)
      throw new Error(`${at}is by \`${name.slice(0, 40)}\`, which is neither a user, an assistant nor a system`);
    const content = textOf(turn.content ?? turn.value ?? turn.text);
    if (content === undefined) throw new Error(`${at}holds no text`);
    if (role === "system") systems.push(content);
    else messages.push({ id: newId(), role, content, ...(role === "assistant" ? { finishReason: "stop" } : {}) });
  });
  if (!messages.length) throw new Error(`${where}nobody says anything in it`);
  return {
    id: newId(),
    title: wordOf(table.title) || titleOf(messages) || "Imported chat",
    created: timeOf(table.created) ?? now,
    updated: timeOf(table.updated) ?? now,
    system: systems.join("\n\n"),
    model: wordOf(table.model),
    condition: wordOf(table.condition),
    params: paramsOf(table),
    messages,
  };
}

function paramsOf(table: Table): Params {
  const out: Params = {};
  for (const [name, wire] of Object.entries(WIRE_PARAMS)) {
    const value = table[wire];
    if (typeof value === "number" && Number.isFinite(value)) out[name as keyof Params] = value;
  }
  return out;
}

function isTable(value: unknown): value is Table {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function roleName(turn: Table): string | undefined {
  const name = turn.role ?? turn.from;
  return typeof name === "string" ? name : undefined;
}

/** Gives a text, also where it comes in parts, as OpenAI's messages may. */
function textOf(value: unknown): string | undefined {
  if (typeof value === "string") return value;
  if (!Array.isArray(value) || !value.length) return undefined;
  const parts = value.map((part) => (typeof part === "string" ? part : isTable(part) ? part.text : undefined));
  return parts.every((part) => typeof part === "string") ? parts.join("") : undefined;
}

function wordOf(value: unknown): string {
  return typeof value === "string" ? value.slice(0, 1024) : "";
}

function timeOf(value: unknown): number | undefined {
  const time = typeof value === "string" ? Date.parse(value) : Number.NaN;
  return Number.isFinite(time) ? time : undefined;
}

function said(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
