/** @file The driver of a conversation: it does its I/O with `fetch`, in browsers and in Node, and decides nothing. */

import { Conversation } from "./conversation.js";
import { EdgeError, ProtocolError, UsageError } from "./errors.js";
import { readWhole } from "./events.js";
import { KnownServer } from "./known.js";
import { openPicture } from "./pictures.js";
import { settingsOf } from "./settings.js";
import { hex } from "./sha256.js";
import { contentBytes } from "./wire.js";

/**
 * @typedef {import("./conversation.js").Step} Step
 * @typedef {import("./failures.js").Arrived} Arrived
 * @typedef {import("./failures.js").Lost} Lost
 * @typedef {{stage: 1 | 2, look: number, text: string, min_entropy: number}} Token of an answer that is still being made;
 *   `look` counts the regions of stage two, `min_entropy` is in nats. The texts of a look put together are its answer
 *   before blanks around it are cut off.
 * @typedef {{signal?: AbortSignal, onStep?: (step: Step) => void, onToken?: (token: Token) => void}} Calls
 *   `signal` ends the question, which throws the signal's reason; `onStep` is told every step before it is taken;
 *   with `onToken` answers are asked for as streams
 */

const MAX_DEADLINE_MS = 3_600_000;
const TERMS = [
  "mode", "threshold", "timeout_s", "max_uplink_bytes", "strict", "max_new_tokens", "include", "idempotency_key", "max_rounds",
];

/** A client that asks a Second Glance server about pictures. Questions may overlap. */
export class EdgeClient {
  #url;
  #settings;
  #known;

  /** The key for the server; may be changed between questions. @type {string | null} */
  apiKey;

  /**
   * @param {{url: string, apiKey?: string | null, settings?: Partial<import("./settings.js").Settings>}} options
   *   `url` is the server's. Throws UsageError for a setting or an address that cannot work.
   */
  constructor({ url, apiKey = null, settings = {} }) {
    this.#url = checked(url);
    this.apiKey = apiKey;
    this.#settings = settingsOf(settings);
    this.#known = new KnownServer(this.#settings.remembered_images);
  }

  /**
   * Ask about a picture, and return the reply of the last stage. Throws EdgeError if stage one fails; a failed stage
   * two gives the draft answer with `degraded` set, or throws if `strict`.
   *
   * @param {import("./pictures.js").Source} picture
   * @param {string} question 1 to 4,096 bytes of UTF-8
   * @param {import("./wire.js").Terms & Calls} [terms]
   * @returns {Promise<import("./reply.js").Reply>}
   */
  async ask(picture, question, { signal, onStep, onToken, ...terms } = {}) {
    for (const name of Object.keys(terms)) {
      if (!TERMS.includes(name)) throw new UsageError(`no such option: ${name}`);
    }
    const open = () => openPicture(picture, this.#settings.max_original_pixels);
    return await this.#run(new Conversation(open, question, terms, this.#around(!!onToken)).run(), { signal, onStep, onToken });
  }

  /** Return what the server takes; it is asked once and remembered. @param {Calls} [calls] */
  async model(calls = {}) {
    const conversation = new Conversation(() => Promise.reject(new Error("no picture")), "", {}, this.#around());
    return await this.#run(conversation.fetchModel(), calls);
  }

  #around(streams = false) {
    const around = { clock: now, draw: Math.random, nowMs: Date.now, randomHex, streams };
    return { ...around, known: this.#known, settings: this.#settings };
  }

  /** @template T @param {Generator<Step, T, any>} steps @param {Calls} calls @returns {Promise<T>} */
  async #run(steps, { signal, onStep, onToken }) {
    const teller = new Teller(onToken);
    try {
      let taken = steps.next();
      while (!taken.done) {
        signal?.throwIfAborted();
        onStep?.(taken.value);
        let done;
        try {
          done = await this.#perform(taken.value, teller, signal);
        } catch (error) {
          if (!(error instanceof EdgeError)) throw error;
          taken = steps.throw(error);
          continue;
        }
        taken = steps.next(done);
      }
      return taken.value;
    } finally {
      steps.return(/** @type {T} */ (undefined)); // gives the picture back, whatever ended the question
    }
  }

  /** @param {Step} step @param {Teller} teller @param {AbortSignal | undefined} signal @returns {Promise<any>} */
  async #perform(step, teller, signal) {
    if (step.kind === "send") return await this.#exchange(step, teller, signal);
    if (step.kind === "pause") return await pause(step.seconds, signal);
    return step.kind === "compute" ? await step.work() : undefined;
  }

  /** @param {import("./wire.js").Send} send @param {Teller} teller @param {AbortSignal | undefined} signal @returns {Promise<Arrived | Lost>} */
  async #exchange(send, teller, signal) {
    const left_s = send.deadline === null ? Infinity : send.deadline - now();
    const watch = new Watch(Math.min(left_s, this.#settings.total_timeout_s), signal);
    let lost = /** @type {"connect" | "network"} */ ("connect");
    let uplink_bytes = 0;
    try {
      const reply = await fetch(this.#url + send.path, {
        method: send.method,
        headers: this.#headers(send, left_s),
        ...(send.method !== "GET" && { body: new Blob([send.body]) }), // whole: a page knows its length
        signal: watch.signal,
        cache: "no-store",
        credentials: "omit",
        redirect: "manual",
      });
      [lost, uplink_bytes] = ["network", contentBytes(send)];
      if (reply.type === "opaqueredirect") throw new ProtocolError("the server sends us elsewhere; is this a Second Glance server?");
      const { status, body, bytes } = await readWhole(reply, teller.of(send));
      return { status, headers: Object.fromEntries(reply.headers), body, uplink_bytes, downlink_bytes: bytes };
    } catch (error) {
      signal?.throwIfAborted();
      teller.check();
      if (error instanceof ProtocolError) return { lost: "protocol", detail: error.message, uplink_bytes, downlink_bytes: 0 };
      const detail = watch.isOver ? `${send.method} ${send.path}` : inWords(error);
      return { lost: watch.isOver ? "timeout" : lost, detail, uplink_bytes, downlink_bytes: 0 };
    } finally {
      watch.end();
    }
  }

  /** @param {import("./wire.js").Send} send @param {number} left_s */
  #headers(send, left_s) {
    const left_ms = Math.min(Math.max(1, Math.floor(1000 * left_s)), MAX_DEADLINE_MS);
    return {
      ...send.headers,
      ...(this.apiKey && { Authorization: `Bearer ${this.apiKey}` }),
      ...(left_s < Infinity && { "X-Deadline-Ms": String(left_ms) }), // so that late work does not begin
    };
  }
}

/** Tells tokens as they come, each once: an attempt after a cut stream begins anew. */
class Teller {
  #onToken;
  #told = new Map();
  /** @type {[unknown] | null} what the caller threw */
  #thrown = null;

  /** @param {((token: Token) => void) | undefined} onToken */
  constructor(onToken) {
    this.#onToken = onToken;
  }

  /** Return whom to tell the tokens of the reply to this attempt. @param {import("./wire.js").Send} send */
  of(send) {
    let seen = 0;
    return (/** @type {import("./replies.js").TokenEvent} */ token) => {
      if (++seen <= (this.#told.get(send) ?? 0)) return;
      this.#told.set(send, seen);
      try {
        this.#onToken?.({ stage: send.stage === "stage1" ? 1 : 2, look: send.look, ...token });
      } catch (error) {
        this.#thrown = [error];
        throw error;
      }
    };
  }

  check() {
    if (this.#thrown) throw this.#thrown[0];
  }
}

/** Ends a request when its time is up or the caller has enough; `AbortSignal.any` is too new for this. */
class Watch {
  #controller = new AbortController();
  #caller;
  #timer;
  isOver = false;

  /** @param {number} seconds @param {AbortSignal | undefined} caller */
  constructor(seconds, caller) {
    this.#caller = caller;
    caller?.addEventListener("abort", this.#abort);
    this.#timer = setTimeout(() => {
      this.isOver = true;
      this.#abort();
    }, Math.max(0, 1000 * seconds));
  }

  #abort = () => this.#controller.abort();

  get signal() {
    return this.#controller.signal;
  }

  end() {
    clearTimeout(this.#timer);
    this.#caller?.removeEventListener("abort", this.#abort);
  }
}

const now = () => performance.now() / 1000;

/** @param {unknown} error */
function inWords(error) {
  if (!(error instanceof Error)) return String(error);
  const cause = error.cause instanceof Error ? `: ${error.cause.message || /** @type {any} */ (error.cause).code}` : "";
  return error.message + cause;
}

/** @param {number} seconds @param {AbortSignal | undefined} signal @returns {Promise<void>} */
function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const end = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", end);
      if (signal?.aborted) reject(signal.reason);
      else resolve();
    };
    const timer = setTimeout(end, 1000 * seconds);
    signal?.addEventListener("abort", end);
  });
}

/** @param {number} bytes */
function randomHex(bytes) {
  const values = new Uint8Array(bytes);
  // Node 18 has no global `crypto`; names have to differ and need not be secret.
  return hex(globalThis.crypto ? crypto.getRandomValues(values) : values.map(() => 256 * Math.random()));
}

/** Return a server's URL without a slash at its end. @param {string} url */
function checked(url) {
  let parsed;
  try {
    parsed = new URL(url);
  } catch {
    throw new UsageError("not a URL: the server's address begins with http:// or https://");
  }
  if (!["http:", "https:"].includes(parsed.protocol)) throw new UsageError("not an http or https URL");
  if (parsed.search || parsed.hash) throw new UsageError("a server's URL has no query and no fragment");
  if (parsed.username || parsed.password) throw new UsageError("a server's URL has no user and no password; a key goes into apiKey");
  return parsed.href.replace(/\/$/, "");
}
