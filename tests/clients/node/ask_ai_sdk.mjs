// The Vercel AI SDK asks a model: node ask_ai_sdk.mjs openai|responses|compatible|leave MODEL
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { openai } from "@ai-sdk/openai";
import { generateText, streamText } from "ai";

const [what, name] = process.argv.slice(2);
const tidegate = createOpenAICompatible({ name: "tidegate", baseURL: process.env.OPENAI_BASE_URL });
const models = { openai: () => openai.chat(name), responses: () => openai(name) };
const model = (models[what] ?? (() => tidegate(name)))();

if (what === "leave") {
  const leaving = new AbortController();
  const { textStream } = streamText({ model, prompt: "Never stop.", abortSignal: leaving.signal });
  for await (const part of textStream) {
    if (part) leaving.abort();
  }
  console.log("left");
  process.stdin.resume();
} else {
  const plain = await generateText({ model, prompt: "Answer PONG." });
  const streamed = [];
  for await (const part of streamText({ model, prompt: "one two three" }).textStream) streamed.push(part);
  console.log(JSON.stringify({ plain: plain.text, streamed }));
}
