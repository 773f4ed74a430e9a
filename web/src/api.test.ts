// @vitest-environment jsdom
import { afterEach, expect, test, vi } from "vitest";
import { type ApiError, chatBody, type Piece, sentence, streamChat, UNREACHABLE } from "./api";
import { keepKey } from "./key";
import type { Conversation } from "./types";

const CHAT: Conversation = {
  id: "c",
  title: "",
  created: 0,
  updated: 0,
  system: " ",
  model: "",
  condition: "",
  params: {},
  messages: [
    { id: "1", role: "user", content: "Hello" },
    { id: "2", role: "assistant", content: "" },
  ],
};

afterEach(() => {
  vi.unstubAllGlobals();
});

/** The network, as far as a page sees it: a body that arrives in pieces of `size` bytes. */
function serve(body: string, init: ResponseInit = {}, size = 7): void {
  const bytes = new TextEncoder().encode(body);
  vi.stubGlobal("fetch", async () => {
    const stream = new ReadableStream<Uint8Array>({
      start(controller) {
        for (let at = 0; at < bytes.length; at += size) controller.enqueue(bytes.slice(at, at + size));
        controller.close();
      },
    });
    return new Response(stream, init);
  });
}

async function all(): Promise<[Piece[], ApiError | null]> {
  const out: Piece[] = [];
  try {
    for await (const piece of streamChat({}, new AbortController().signal)) out.push(piece);
  } catch (error) {
    return [out, error as ApiError];
  }
  return [out, null];
}

const text = (content: string) => `data: ${JSON.stringify({ choices: [{ delta: { content } }] })}\n\n`;
const FINISH = `data: ${JSON.stringify({ choices: [{ delta: {}, finish_reason: "stop" }] })}\n\n`;

test("a body holds what is set, and no empty reply", () => {
  expect(chatBody(CHAT, "m")).toEqual({
    model: "m",
    messages: [{ role: "user", content: "Hello" }],
    stream: true,
    stream_options: { include_usage: true },
  });
  const full = { ...CHAT, system: "S", condition: "C", params: { temperature: 0, topP: 0.5, maxTokens: 9, seed: 0 } };
  expect(chatBody(full, "m")).toMatchObject({
    messages: [
      { role: "system", content: "S" },
      { role: "user", content: "Hello" },
    ],
    condition: "C",
    temperature: 0,
    top_p: 0.5,
    max_tokens: 9,
    seed: 0,
  });
});

test("a stream is read whole, wherever its bytes are cut", async () => {
  for (const size of [1, 2, 3, 1000]) {
    serve(`: keep-alive\n\n${text("Grüß")}${text(" dich 👋")}${FINISH}data: [DONE]\n\n`, {}, size);
    const [pieces, error] = await all();
    expect(error).toBeNull();
    expect(pieces).toEqual([
      { kind: "text", text: "Grüß" },
      { kind: "text", text: " dich 👋" },
      { kind: "finish", reason: "stop" },
    ]);
  }
});

test("an error event is told in the server's words, after what came", async () => {
  serve(`${text("So far")}data: ${JSON.stringify({ error: { message: "the engine died", code: "x" } })}\n\n`);
  const [pieces, error] = await all();
  expect(pieces).toEqual([{ kind: "text", text: "So far" }]);
  expect(error).toMatchObject({ message: "The engine died.", code: "x" });
});

test("a stream that ends without its end is a fault", async () => {
  serve(text("So far") + FINISH);
  expect((await all())[1]?.message).toMatch(/broke off/);
});

test("a refusal carries its status and how long to wait", async () => {
  const body = JSON.stringify({ error: { message: "too fast", code: "rate" } });
  serve(body, { status: 429, headers: { "Retry-After": "12" } });
  expect((await all())[1]).toMatchObject({ status: 429, code: "rate", retryAfterSeconds: 12, message: "Too fast." });
});

test("a proxy's error page is told by its status alone", async () => {
  serve("<html>Bad gateway</html>", { status: 502 });
  expect((await all())[1]?.message).toBe("The server is not available at the moment.");
});

test("no network is told as such", async () => {
  vi.stubGlobal("fetch", async () => {
    throw new TypeError("Failed to fetch");
  });
  expect((await all())[1]?.message).toBe(UNREACHABLE);
});

test("the key goes into a header, and into no address", async () => {
  keepKey("sk-secret", false);
  const asked: [string, string | null][] = [];
  vi.stubGlobal("fetch", async (url: URL, init: { headers: Headers }) => {
    asked.push([String(url), init.headers.get("Authorization")]);
    return new Response("data: [DONE]\n\n");
  });
  await all();
  expect(asked).toEqual([[expect.not.stringContaining("secret"), "Bearer sk-secret"]]);
});

test("a sentence begins with a capital and ends with one stop", () => {
  expect(sentence("the model is busy")).toBe("The model is busy.");
  expect(sentence("Already one.")).toBe("Already one.");
});
