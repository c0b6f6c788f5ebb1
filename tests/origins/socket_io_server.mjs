// A Socket.IO server that keeps its sessions in memory, as Dify's does, and answers each message with its own name. It prints its port.
// Arguments: the folder that the package is installed in, and the server's name.

import { createServer } from "node:http";
import { createRequire } from "node:module";

const [folder, name] = process.argv.slice(2);
const { Server } = createRequire(`${folder}/`)("socket.io");
const http = createServer((request, response) => response.end("ok"));
new Server(http).on("connection", (socket) => {
  socket.on("ask", (number, answer) => answer({ number, name, transport: socket.conn.transport.name }));
});
http.listen(0, "127.0.0.1", () => console.log(http.address().port));
