// A client that fetches a ticket at one node, opens the WebSocket at the other, and stays until it is closed.
//
//   TOKEN=... node client.mjs

import WebSocket from "ws";

const TICKETS = "http://127.0.0.1:8080/websocket/ticket";
const SOCKET = "ws://127.0.0.1:8081/ws";

const headers = process.env.TOKEN ? { Authorization: `Bearer ${process.env.TOKEN}` } : {};
const answer = await fetch(TICKETS, { method: "POST", headers });
const { ticket_id: ticket, code } = await answer.json();
if (!answer.ok) {
  console.log(`refused: ${answer.status} ${code}`);
  process.exit(1);
}

const socket = new WebSocket(`${SOCKET}?ticket=${ticket}`);
socket.on("message", (data) => {
  const { user, type, payload } = JSON.parse(data);
  // Usher explains in a message of its own why it closes.
  console.log(type === "error" ? `error: ${payload.code}` : `authenticated as ${user}`);
});
socket.on("close", (code, reason) => console.log(`closed: ${code} ${reason}`));
socket.on("error", ({ message }) => {
  console.log(`refused: ${message}`);
  process.exitCode = 1;
});
