// The openai SDK for Node asks a model: node ask_openai.mjs chat|leave MODEL
import OpenAI from "openai";

const [what, model] = process.argv.slice(2);
const client = new OpenAI();
const ask = (content) => ({ model, messages: [{ role: "user", content }] });

if (what === "chat") {
  const plain = await client.chat.completions.create(ask("Answer PONG."));
  const streamed = [];
  for await (const chunk of await client.chat.completions.create({ ...ask("one two three"), stream: true })) {
    streamed.push(chunk.choices[0]?.delta?.content ?? "");
  }
  console.log(JSON.stringify({ plain: plain.choices[0].message.content, streamed }));
} else {
  // The process stays until it is told that the provider saw it leave: its end must not be what ends the call.
  const stream = await client.chat.completions.create({ ...ask("Never stop."), stream: true });
  for await (const chunk of stream) {
    if (chunk.choices[0]?.delta?.content) break;
  }
  console.log("left");
  process.stdin.resume();
}
