/** The server's API: requests, the stream of a reply, and what goes wrong in words for people. */

import { createParser } from "eventsource-parser";
import { apiKey } from "./key";
import type { Conversation } from "./types";

/** One name under which the server knows its model. */
export type ModelCard = {
  id: string;
  root?: string;
  max_model_len?: number;
  family?: string;
  /** What a request without a condition gets; null: the family takes none. */
  default_condition?: string | null;
  /** Those that the model is known to be trained on; empty: nothing is known. */
  conditions?: string[];
};

export type Version = { version: string; engine: string; family: string };

export type Usage = { prompt_tokens: number; completion_tokens: number };

/** What a stream says, piece by piece. */
export type Piece =
  | { kind: "warning"; text: string }
  | { kind: "text"; text: string }
  | { kind: "finish"; reason: string }
  | { kind: "usage"; usage: Usage };

/** A fault whose message can be shown as it is. */
export class ApiError extends Error {
  /** 0: there was no answer at all. */
  readonly status: number;
  readonly code: string;
  readonly retryAfterSeconds: number;

  constructor(message: string, { status = 0, code = "", retryAfterSeconds = 0 } = {}) {
    super(message);
    this.status = status;
    this.code = code;
    this.retryAfterSeconds = retryAfterSeconds;
  }
}

export const UNREACHABLE = "The server cannot be reached. Is it running, and is this computer online?";
const BROKEN_OFF = "The connection broke off before the reply was complete.";

export async function fetchModels(): Promise<ModelCard[]> {
  const answer = await request("v1/models");
  return ((await answer.json()) as { data: ModelCard[] }).data;
}

export async function fetchVersion(): Promise<Version> {
  return (await request("version")).json();
}

/** Gives the body of a chat request. A last message of the assistant's is continued by the server. */
export function chatBody(conversation: Conversation, model: string): Record<string, unknown> {
  const { system, condition, params, messages } = conversation;
  const body: Record<string, unknown> = {
    model,
    messages: [
      ...(system.trim() ? [{ role: "system", content: system }] : []),
      ...messages.filter((message) => message.content).map(({ role, content }) => ({ role, content })),
    ],
    stream: true,
    stream_options: { include_usage: true },
  };
  if (condition) body.condition = condition;
  if (params.temperature !== undefined) body.temperature = params.temperature;
  if (params.topP !== undefined) body.top_p = params.topP;
  if (params.maxTokens !== undefined) body.max_tokens = params.maxTokens;
  if (params.seed !== undefined) body.seed = params.seed;
  return body;
}

/** Streams a reply. Throws ApiError; an AbortError where the signal was given. */
export async function* streamChat(body: Record<string, unknown>, signal: AbortSignal): AsyncGenerator<Piece> {
  const answer = await request("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
  const warning = answer.headers.get("x-ochatctl-warning");
  if (warning) yield { kind: "warning", text: sentence(warning) };
  if (!answer.body) throw new ApiError(BROKEN_OFF);
  const events: string[] = [];
  const parser = createParser({ onEvent: (event) => events.push(event.data) });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { done, value } = await reader.read().catch((error: unknown) => {
      if (signal.aborted) throw error;
      throw new ApiError(BROKEN_OFF);
    });
    if (done) throw new ApiError(BROKEN_OFF);
    parser.feed(value);
    for (const data of events.splice(0)) {
      if (data === "[DONE]") return;
      yield* pieces(data);
    }
  }
}

type Chunk = {
  choices?: { delta?: { content?: string | null }; finish_reason?: string | null }[];
  usage?: Usage | null;
  error?: { message?: string; code?: string | null };
};

function* pieces(data: string): Generator<Piece> {
  let chunk: Chunk;
  try {
    chunk = JSON.parse(data);
  } catch {
    throw new ApiError("The server sent something that is not a reply.");
  }
  if (chunk.error) throw new ApiError(sentence(chunk.error.message ?? ""), { code: chunk.error.code ?? "" });
  const choice = chunk.choices?.[0];
  if (choice?.delta?.content) yield { kind: "text", text: choice.delta.content };
  if (choice?.finish_reason) yield { kind: "finish", reason: choice.finish_reason };
  if (chunk.usage) yield { kind: "usage", usage: chunk.usage };
}

async function request(path: string, init: RequestInit = {}): Promise<Response> {
  const headers = new Headers(init.headers);
  const key = apiKey();
  if (key) headers.set("Authorization", `Bearer ${key}`);
  let answer: Response;
  try {
    // Relative to the page, which may stand behind a prefix.
    answer = await fetch(new URL(path, document.baseURI), { ...init, headers, cache: "no-store" });
  } catch (error) {
    if (init.signal?.aborted) throw error;
    throw new ApiError(UNREACHABLE);
  }
  if (!answer.ok) throw await toldBy(answer);
  return answer;
}

async function toldBy(answer: Response): Promise<ApiError> {
  const { status } = answer;
  let told: { message?: string; code?: string | null } = {};
  try {
    told = ((await answer.json()) as Chunk).error ?? {};
  } catch {
    // Not the server's own words: a proxy's page, which says less than the status.
  }
  const seconds = Number(answer.headers.get("Retry-After"));
  return new ApiError(told.message ? sentence(told.message) : inWords(status), {
    status,
    code: told.code ?? "",
    retryAfterSeconds: Number.isFinite(seconds) ? Math.max(0, seconds) : 0,
  });
}

function inWords(status: number): string {
  if (status === 401 || status === 403) return "The server wants an API key.";
  if (status === 413) return "The conversation is too large for the server.";
  if (status === 429) return "Too many requests.";
  if ([502, 503, 504].includes(status)) return "The server is not available at the moment.";
  return `The server answered with an error (${status}).`;
}

/** Gives the server's words, which begin in lower case and have no full stop, as a sentence. */
export function sentence(text: string): string {
  const trimmed = text.trim() || "The server reported an error without saying which";
  return trimmed.charAt(0).toUpperCase() + trimmed.slice(1) + (/[.!?]$/.test(trimmed) ? "" : ".");
}
