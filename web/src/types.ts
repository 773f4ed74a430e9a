/** What a chat is made of, here and in the browser's storage. */

export type Role = "user" | "assistant";

/** How a reply ended: OpenAI's reasons, and `stopped` where the reader pressed stop. */
export type FinishReason = "stop" | "length" | "stopped" | (string & {});

/** One message. A reply without a finish reason and without an error is under way, or was interrupted. */
export type Message = {
  id: string;
  role: Role;
  content: string;
  finishReason?: FinishReason;
  tokensPerSecond?: number;
  numTokens?: number;
  error?: string;
};

/** What a request says beside the messages; what is absent is left to the server. */
export type Params = {
  temperature?: number;
  topP?: number;
  maxTokens?: number;
  seed?: number;
};

/** One conversation. Times are milliseconds since 1970; an empty `model` or `condition` is the server's default. */
export type Conversation = {
  id: string;
  title: string;
  created: number;
  updated: number;
  system: string;
  model: string;
  condition: string;
  params: Params;
  messages: Message[];
};
