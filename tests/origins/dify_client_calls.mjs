// Makes the calls of an ordinary program with the npm package `dify-client`, and prints what came of each as JSON.
// Arguments: the base URL of the API, and the folder that the package is installed in.

import { pathToFileURL } from "node:url";

const [url, folder] = process.argv.slice(2);
const { ChatClient, CompletionClient } = await import(pathToFileURL(`${folder}/dify-client/index.js`));
const inputs = { events: 3, gap_ms: 5 };

// The answer, put together again from its events.
async function heard(stream) {
  let text = "";
  for await (const piece of stream) text += piece;
  const events = text.split("\n").filter((line) => line.startsWith("data: ")).map((line) => JSON.parse(line.slice(6)));
  return { answer: events.map((event) => event.answer ?? "").join(""), events: events.map((event) => event.event) };
}

const told = (call, response, content) => ({ call, status: response.status, instance: response.headers["x-instance"], ...content });

const chat = new ChatClient("app-key", url);
const completion = new CompletionClient("app-key", url);
const results = [];
let response = await chat.createChatMessage(inputs, "Who are you?", "ann");
results.push(told("chat blocking", response, { answer: response.data.answer }));
response = await chat.createChatMessage(inputs, "Who are you?", "ann", true);
results.push(told("chat streaming", response, await heard(response.data)));
response = await completion.createCompletionMessage(inputs, "ann");
results.push(told("completion blocking", response, { answer: response.data.answer }));
response = await completion.createCompletionMessage(inputs, "ann", true);
results.push(told("completion streaming", response, await heard(response.data)));
response = await chat.getApplicationParameters("ann");
results.push(told("parameters", response, {}));
response = await chat.getConversations("ann");
results.push(told("conversations", response, {}));
process.stdout.write(JSON.stringify(results));
