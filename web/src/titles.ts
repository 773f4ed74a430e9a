/** What a conversation is called until somebody names it. */

import type { Message } from "./types";

/** Gives a title from the first thing that was asked. */
export function titleOf(messages: readonly Message[]): string {
  const asked = messages.find((message) => message.role === "user")?.content ?? "";
  const line = asked
    .replace(/[#*`>_~]+/g, "")
    .replace(/\s+/g, " ")
    .trim();
  if (line.length <= 60) return line;
  const cut = line.slice(0, 60);
  return `${cut.slice(0, Math.max(30, cut.lastIndexOf(" "))).trimEnd()}…`;
}
