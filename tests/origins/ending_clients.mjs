// Lets a real client meet the end of what it asked for, and tells each thing that happens as a line of JSON.
// Arguments: the folder that the packages are installed in, the client, and the URL.

import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { createInterface } from "node:readline";

const [folder, client, url] = process.argv.slice(2);
const require = createRequire(`${folder}/`);
const began = performance.now();
const tell = (event, more = {}) => console.log(JSON.stringify({ event, at: (performance.now() - began) / 1000, ...more }));
const chat = { inputs: { events: 10000, gap_ms: 20 }, query: "q", user: "u", response_mode: "streaming" };

const clients = {
  async eventsource() {
    const { EventSource } = require("eventsource");
    const source = new EventSource(`${url}/events`);
    let pieces = 0;
    source.onopen = () => { pieces = 0; tell("open"); };
    source.onmessage = (event) => { if (pieces++ === 0) tell("piece", { id: event.lastEventId }); };
    // What the stream itself calls an error comes here as well, with its data.
    source.addEventListener("error", (error) => tell("error", { data: error.data ?? null, code: error.code ?? null, state: source.readyState }));
  },

  // Each line of standard input is a path to which it posts.
  async "fetch-event-source"() {
    // It is made for pages.
    globalThis.document = { hidden: false, addEventListener() {}, removeEventListener() {} };
    globalThis.window = globalThis;
    const { fetchEventSource } = require("@microsoft/fetch-event-source");
    for await (const path of createInterface({ input: process.stdin })) {
      let [asked, pieces] = [0, 0];
      const counted = (...request) => { asked += 1; tell("asked", { asked }); return fetch(...request); };
      const headers = { "Content-Type": "application/json" };
      await fetchEventSource(`${url}${path}`, {
        method: "POST", headers, body: JSON.stringify(chat), fetch: counted,
        onmessage(event) {
          if (event.event === "error" || event.data.includes('"error"')) tell("message", { name: event.event, data: JSON.parse(event.data) });
          else if (pieces++ === 0) tell("piece");
        },
      });
      tell("resolved", { asked });
    }
  },

  async "socket.io"() {
    const { io } = require("socket.io-client");
    const socket = io(url, { transports: ["websocket"] });
    socket.on("connect", () => tell("open"));
    socket.on("connect_error", (error) => tell("failed", { message: error.message }));
    socket.on("disconnect", (reason) => tell("closed", { reason, active: socket.active }));
  },

  async dify() {
    const { ChatClient } = await import(pathToFileURL(`${folder}/node_modules/dify-client/index.js`));
    const client = new ChatClient("app-key", `${url}/v1`);
    for await (const _ of createInterface({ input: process.stdin })) {
      try {
        const response = await client.createChatMessage(chat.inputs, "q", "u", true);
        let text = "";
        for await (const piece of response.data) {
          if (text === "") tell("piece");
          text += piece;
        }
        const last = text.trimEnd().split("\n\n").at(-1);
        tell("end", { last: JSON.parse(last.replace("data: ", "")) });
      } catch (error) {
        tell("error", { code: error.code ?? null, status: error.response?.status ?? error.statusCode ?? error.status ?? null, message: error.message });
      }
    }
  },
};

await clients[client]();
