/** @file Asks the server through the library, and tells the page what happens, in words where people read it. */

import {
  BadImageError, BusyError, EdgeClient, EdgeError, NotAllowedError, ServerUnavailableError, UsageError,
} from "./src/index.js";

/**
 * @typedef {object} Events
 * @property {(stage: 1 | 2, bytes: number) => void} sending a request with a body of so many bytes leaves
 * @property {(bytes: number, elapsedMs: number) => void} answered
 * @property {(seconds: number) => void} waiting before the same request leaves again
 * @property {(first: {answer: string}, roi: import("./src/index.js").Roi | null) => void} first
 *   the first answer; null: it is the last
 *
 * @typedef {{name: string, bytes: number, counted: number | null}} Sent as sent, and as the server counts bodies
 * @typedef {{reply: import("./src/index.js").Reply, domain: string | null, sent: Sent[], region: Blob | null}} Outcome
 *   `domain` is what the model can answer, in words; `region` is the answer's, as it was sent
 */

/** A server that can be asked. */
export class Asking {
  /** @param {string} url the server's address */
  constructor(url) {
    this.client = new EdgeClient({ url });
  }

  /**
   * Ask about a photo. Throws EdgeError or AbortError.
   *
   * @param {Blob} blob
   * @param {string} question
   * @param {{mode: any, rounds: number, threshold: number | null, key: string, signal: AbortSignal, on: Events}} terms
   * @returns {Promise<Outcome>}
   */
  async ask(blob, question, { mode, rounds, threshold, key, signal, on }) {
    const seen = new Seen(on);
    this.client.apiKey = key || null;
    const terms = { mode, max_rounds: rounds, threshold, signal };
    const reply = await this.client.ask(blob, question, { ...terms, onStep: (step) => seen.step(step) });
    const region = seen.regions[Math.max(0, reply.looks.findIndex((look) => look.roi === reply.roi))] ?? null;
    return { reply, domain: (await this.client.model({ signal })).domain, sent: seen.sent, region };
  }

  /** @param {unknown} error @returns {boolean} whether another key may help */
  isAboutKey(error) {
    return error instanceof NotAllowedError;
  }

  /** @param {unknown} error @returns {string} what went wrong, for people */
  inWords(error) {
    if (error instanceof NotAllowedError && error.status === 401) {
      return "The server wants a key, or does not know this one. Enter the key below Options.";
    }
    if (error instanceof NotAllowedError) return `The key may not do this: ${error.message}.`;
    if (error instanceof BusyError && error.status === 429) return "The server has no more room for this key now. Ask again in a while.";
    if (error instanceof BusyError) return "The server is busy or starting. Ask again in a while.";
    if (error instanceof ServerUnavailableError && error.status === null) return AWAY;
    if (error instanceof BadImageError && error.status === null) return error.message;
    if (error instanceof UsageError && error.status === null) return `This cannot be asked: ${error.message}.`;
    if (error instanceof EdgeError) return `The server could not answer: ${error.message}.`;
    return "Something went wrong in this page. Load it again.";
  }
}

const AWAY = "The server cannot be reached. Is it running, and is there a network?";

/** @param {string} degraded why a reply has no second answer @returns {string} the same for people */
export function whyDegraded(degraded) {
  return (/^(cannot connect|the connection broke): /.test(degraded) ? AWAY : degraded).replace(/\.$/, "");
}

/** What a question has done so far. */
class Seen {
  /** @type {Sent[]} */
  sent = [];
  /** @type {Blob[]} */
  regions = [];
  /** @type {import("./src/index.js").Step | null} */
  #last = null;
  #began = 0;
  #bytes = 0;
  #hasPicture = false;

  /** @param {Events} on */
  constructor(on) {
    this.on = on;
  }

  /** @param {import("./src/index.js").Step} step that comes next */
  step(step) {
    if (step.kind === "compute") this.#hasPicture ||= step.what === "preparing the picture";
    if (step.kind === "pause") this.on.waiting(step.seconds);
    if (step.kind === "send" && step.stage !== "setup") this.#sends(step);
    if (step.kind === "answered") this.#answered(step.reply);
  }

  /** @param {import("./src/index.js").Step & {kind: "send"}} send */
  #sends(send) {
    if (send.stage === "stage2") this.regions[send.look - 1] = new Blob([send.body]);
    const header = send.headers["X-Question"]?.length ?? 0;
    const bytes = send.body.length;
    if (send !== this.#last) { // a retry is the same request
      if (header) this.sent.push({ name: "Question", bytes: header, counted: null });
      const first = !this.#hasPicture ? "Question" : header ? "Small copy" : "Small copy and question";
      const region = send.look > 1 ? `Region ${send.look}` : "Region";
      if (bytes) this.sent.push({ name: send.stage === "stage2" ? region : first, bytes, counted: null });
    }
    [this.#last, this.#began, this.#bytes] = [send, performance.now(), header + bytes];
    this.on.sending(send.stage === "stage2" ? 2 : 1, this.#bytes);
  }

  /** @param {import("./src/index.js").InferenceResponse} reply */
  #answered(reply) {
    const sent = this.sent[this.sent.length - 1];
    if (reply.usage.received_bytes) sent.counted = reply.usage.received_bytes; // of the body
    this.on.answered(this.#bytes, performance.now() - this.#began);
    if (reply.stage === 1) this.on.first(reply, reply.status === "needs_patch" ? reply.roi : null);
  }
}
