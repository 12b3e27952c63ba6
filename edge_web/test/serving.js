/** @file A server for tests: it answers as it is told, and keeps what it was asked. */

import { readFileSync } from "node:fs";
import { createServer } from "node:http";

const FILE = new URL("../../tests/vectors/answered.json", import.meta.url);
const { exchanges, vectors } = JSON.parse(readFileSync(FILE, "utf8"));
const [MODEL, DRAFT, FINAL] = vectors
  .find((/** @type {any} */ vector) => vector.name === "both stages")
  .exchanges.map((/** @type {number} */ at) => exchanges[at].json);

/** Replies to a whole conversation of two stages. @type {Record<string, unknown>} */
export const REPLIES = { GET: MODEL, POST: DRAFT, PUT: FINAL };

/** What a picture is to the client, without pixels. */
export const picture = () => ({
  width: 4000,
  height: 3000,
  encoded_bytes: 1_819_734,
  notes: ["drawn by hand"],
  isClosed: false,
  contentKey: async () => null,
  draw: async (/** @type {any} */ _, /** @type {{width: number, height: number}} */ size) => ({
    ...size,
    write: async (/** @type {string} */ type) => new TextEncoder().encode(`${type} ${size.width}x${size.height}`),
    close() {},
  }),
  close() {
    this.isClosed = true;
  },
});

/**
 * Serve while `work` runs. `answer` may take a request over by returning true.
 *
 * @param {(request: import("node:http").IncomingMessage, response: import("node:http").ServerResponse) => unknown} answer
 * @param {(url: string, seen: {method: string, url: string, headers: any, body: Buffer}[]) => Promise<void>} work
 */
export async function serving(answer, work) {
  /** @type {any[]} */
  const seen = [];
  const server = createServer(async (request, response) => {
    const pieces = [];
    for await (const piece of request) pieces.push(piece);
    const { method, url, headers } = request;
    seen.push({ method, url, headers, body: Buffer.concat(pieces) });
    if (answer(request, response)) return;
    response.setHeader("Content-Type", "application/json");
    response.end(JSON.stringify(REPLIES[String(method)]));
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve(null)));
  const { port } = /** @type {import("node:net").AddressInfo} */ (server.address());
  try {
    await work(`http://127.0.0.1:${port}`, seen);
  } finally {
    server.closeAllConnections();
    server.close();
  }
}
