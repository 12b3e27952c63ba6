/** @file Reads a reply whole, of as many bytes as it may have; one that comes as server-sent events to the last one. */

import { ProtocolError } from "./errors.js";
import { parseProblem, parseToken } from "./replies.js";
import { joined } from "./wire.js";

/** @typedef {import("./replies.js").TokenEvent} TokenEvent */

const MAX_REPLY_BYTES = 8 * 1024 * 1024; // a relevance map of 512 x 512 cells fits
export const EVENT_STREAM = "text/event-stream";

/**
 * Return a reply's status, its document, and how many bytes came; tell its tokens. Throws ProtocolError for what makes no sense, and Error
 * for a stream that breaks off.
 *
 * @param {Response} reply @param {(token: TokenEvent) => void} onToken
 */
export async function readWhole(reply, onToken) {
  const isStream = (reply.headers.get("content-type") ?? "").split(";")[0].trim().toLowerCase() === EVENT_STREAM;
  const events = isStream ? new EventReader() : null;
  const reader = reply.body?.getReader();
  /** @type {Uint8Array[]} */
  const pieces = [];
  /** @type {{status: number, body: Uint8Array} | null} */
  let last = null;
  let bytes = 0;
  while (reader) {
    const { done, value } = await reader.read();
    if (done) break;
    bytes += value.length;
    if (bytes > MAX_REPLY_BYTES) {
      await reader.cancel();
      throw new ProtocolError(`the reply exceeds ${MAX_REPLY_BYTES} bytes`);
    }
    if (!events) pieces.push(value);
    else for (const { name, data } of events.feed(value)) {
      if (name === "token" && !last) onToken(parseToken(data) ?? senseless());
      if (name === "reply") last ??= { status: reply.status, body: data };
      if (name === "problem") last ??= { status: parseProblem(data)?.status ?? senseless(), body: data };
    }
  }
  if (events && !last) throw new Error("the stream ended before the reply");
  return { ...(last ?? { status: reply.status, body: joined(pieces) }), bytes };
}

/** @returns {never} */
function senseless() {
  throw new ProtocolError("the server's stream makes no sense");
}

/** Takes a stream's bytes as they come and gives its events; one that is not ended is none. */
class EventReader {
  #decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  #rest = "";
  #name = "";
  /** @type {string[]} */
  #data = [];

  /** @param {Uint8Array} bytes */
  *feed(bytes) {
    const lines = this.#decoded(bytes).split("\n");
    lines[0] = this.#rest + lines[0];
    this.#rest = /** @type {string} */ (lines.pop());
    for (const line of lines) {
      const [, field, value] = /** @type {RegExpExecArray} */ (/^([^:]*?)(?:: ?(.*?))?\r?$/s.exec(line));
      if (field === "event") this.#name = value ?? "";
      if (field === "data") this.#data.push(value ?? "");
      if (/^\r?$/.test(line) && this.#data.length) {
        yield { name: this.#name, data: new TextEncoder().encode(this.#data.join("\n")) };
        [this.#name, this.#data] = ["", []];
      }
    }
  }

  /** @param {Uint8Array} bytes */
  #decoded(bytes) {
    try {
      return this.#decoder.decode(bytes, { stream: true });
    } catch {
      return senseless();
    }
  }
}
