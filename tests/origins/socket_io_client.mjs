// Talks Socket.IO and prints what it heard as JSON. Arguments: the folder that the package is installed in, the URL, and the transports.

import { createRequire } from "node:module";

const [folder, url, ...transports] = process.argv.slice(2);
const { io } = createRequire(`${folder}/`)("socket.io-client");
const socket = io(url, { transports, reconnection: false, timeout: 5000 });
const told = { answers: [], error: null };
const end = () => { console.log(JSON.stringify(told)); process.exit(0); };
socket.on("connect_error", (error) => { told.error = String(error); end(); });
socket.on("disconnect", (reason) => { told.error = reason; end(); });
const upgraded = new Promise((done) => socket.io.on("open", () => socket.io.engine.on("upgrade", done)));
await new Promise((connected) => socket.on("connect", connected));
if (transports.length > 1) await upgraded;
for (let number = 0; number < 20; number += 1) told.answers.push(await socket.timeout(5000).emitWithAck("ask", number));
end();
