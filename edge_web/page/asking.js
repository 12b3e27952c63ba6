/** @file Asks the server in two stages and tells the page what happens. */

import { Picture, PictureError } from "./copy.js";

/**
 * @typedef {object} Roi
 * @property {{x0: number, y0: number, x1: number, y1: number}} box of the upright photo, 0 to 1
 * @property {{left: number, top: number, right: number, bottom: number}} pixels of the upright photo, half-open
 *
 * @typedef {object} Events
 * @property {(stage: 1 | 2, bytes: number) => void} sending a request with a body of so many bytes leaves
 * @property {(bytes: number, elapsedMs: number) => void} answered
 * @property {(seconds: number) => void} waiting before the same request leaves again
 * @property {(first: {answer: string}, roi: Roi | null) => void} first the first answer; null: it is the last
 *
 * @typedef {object} Outcome
 * @property {string} answer
 * @property {1 | 2} stage
 * @property {boolean} doubtful
 * @property {boolean} offDomain
 * @property {string | null} reason why there was no second stage, by name
 * @property {string | null} degraded why the second stage failed, in words
 * @property {string | null} domain what the model can answer, in words
 * @property {Roi | null} roi
 * @property {{name: string, bytes: number, counted: number | null}[]} sent bodies, as sent and as the server counted
 */

const RETRIES = 2;
const FIRST_WAIT_S = 0.5;
const LONGEST_WAIT_S = 120;
const LONGEST_REQUEST_MS = 300_000;
const IMAGE_QUALITY = 0.4;
const PATCH_QUALITY = 0.85;
const PATCH_URL = /^\/v1\/inferences\/[A-Za-z0-9._~-]+\/patch$/;

/** A request that gave nothing. `status` is 0 where no reply came. */
export class RequestError extends Error {
  /** @param {string} message @param {{status?: number, code?: string, isRetryable?: boolean, waitS?: number | null}} facts */
  constructor(message, { status = 0, code = "", isRetryable = false, waitS = null } = {}) {
    super(message);
    this.status = status;
    this.code = code;
    this.isRetryable = isRetryable;
    this.waitS = waitS;
  }
}

/** A server that can be asked. */
export class Asking {
  /** @param {string} url the server's address, without a slash at its end */
  constructor(url) {
    this.url = url;
    /** @type {any} */
    this.model = null;
    /** @type {{blob: Blob, id: string} | null} */
    this.held = null; // the photo whose small copy the server has, and its name there
  }

  /**
   * Ask about a photo. Throws RequestError, PictureError, or AbortError.
   *
   * @param {Blob} blob
   * @param {string} question
   * @param {{mode: string, threshold: number | null, key: string, signal: AbortSignal, on: Events}} terms
   * @returns {Promise<Outcome>}
   */
  async ask(blob, question, terms) {
    this.model ??= await (await this.#exchange("GET", "/v1/model", null, {}, 0, terms)).json();
    const picture = await Picture.open(blob);
    try {
      return await this.#converse(blob, picture, question, terms);
    } finally {
      picture.close();
    }
  }

  /**
   * @param {Blob} blob @param {Picture} picture @param {string} question @param {any} terms
   * @returns {Promise<Outcome>}
   */
  async #converse(blob, picture, question, terms) {
    const { width, height } = picture;
    const request = { question, image: { width, height }, mode: terms.mode };
    if (terms.threshold !== null) Object.assign(request, { gate: { threshold: terms.threshold } });
    /** @type {Outcome["sent"]} */
    const sent = [];
    const first = await this.#first(blob, picture, request, sent, terms);
    if (first.status !== "needs_patch") {
      terms.on.first(first, null);
      return this.#outcome(first, null, sent, null);
    }
    terms.on.first(first, first.roi);
    try {
      if (!PATCH_URL.test(first.patch.url)) throw new RequestError("the server names a strange address");
      const patch = await picture.region(first.roi.pixels, first.patch, PATCH_QUALITY);
      const kind = { "Content-Type": patch.type };
      const second = await (await this.#exchange("PUT", first.patch.url, patch, kind, 2, terms)).json();
      sent.push({ name: "Region", bytes: patch.size, counted: second.usage.received_bytes });
      return this.#outcome(second, first.roi, sent, null);
    } catch (error) {
      if (terms.signal.aborted) throw error;
      return this.#outcome(first, first.roi, sent, this.inWords(error).replace(/\.$/, ""));
    }
  }

  /**
   * Return the first reply. A photo that the server has already is named, not sent; if it has gone there, sent.
   *
   * @param {Blob} blob @param {Picture} picture @param {object} request @param {Outcome["sent"]} sent
   * @param {any} terms
   * @returns {Promise<any>}
   */
  async #first(blob, picture, request, sent, terms) {
    const held = this.held?.blob === blob ? this.held.id : null;
    const copy = held ? null : await picture.small(this.model.image, this.model.limits, IMAGE_QUALITY);
    const { body, type } = multipart(held ? { ...request, image_id: held } : request, copy);
    const headers = { "Content-Type": type, "Idempotency-Key": newKey() };
    /** @type {Outcome["sent"][0]} */
    const part = { name: held ? "Question" : "Small copy and question", bytes: body.size, counted: null };
    sent.push(part);
    try {
      const reply = await (await this.#exchange("POST", "/v1/inferences", body, headers, 1, terms)).json();
      part.counted = reply.usage.received_bytes;
      this.held = { blob, id: reply.image_id };
      return reply;
    } catch (error) {
      this.held = null;
      if (!held || !(error instanceof RequestError) || error.code !== "image_expired") throw error;
      return await this.#first(blob, picture, request, sent, terms);
    }
  }

  /** @param {any} final @param {Roi | null} roi @param {Outcome["sent"]} sent @param {string | null} degraded */
  #outcome(final, roi, sent, degraded) {
    const isOverGate = !final.answer.trim() || final.confidence.value > final.confidence.threshold;
    return {
      answer: final.answer,
      stage: final.stage,
      doubtful: final.doubtful ?? isOverGate,
      offDomain: final.off_domain ?? false,
      reason: final.reason ?? null,
      degraded,
      domain: this.model.domain ?? null,
      roi,
      sent,
    };
  }

  /**
   * Send a request, again where that may help. Throws RequestError.
   *
   * @param {string} method @param {string} path @param {Blob | null} body @param {Record<string, string>} headers
   * @param {0 | 1 | 2} stage @param {any} terms
   */
  async #exchange(method, path, body, headers, stage, terms) {
    const authorized = terms.key ? { ...headers, Authorization: `Bearer ${terms.key}` } : headers;
    for (let tries = 0; ; tries++) {
      if (stage) terms.on.sending(stage, body?.size ?? 0);
      const began = performance.now();
      try {
        const signal = AbortSignal.any([terms.signal, AbortSignal.timeout(LONGEST_REQUEST_MS)]);
        const reply = await this.#once(path, { method, body, headers: authorized, signal });
        if (stage) terms.on.answered(body?.size ?? 0, performance.now() - began);
        return reply;
      } catch (error) {
        if (!(error instanceof RequestError) || !error.isRetryable || tries === RETRIES) throw error;
        const seconds = error.waitS ?? FIRST_WAIT_S * 2 ** tries;
        if (seconds > LONGEST_WAIT_S) throw error;
        terms.on.waiting(seconds);
        await pause(seconds, terms.signal);
      }
    }
  }

  /** @param {string} path @param {RequestInit} request */
  async #once(path, request) {
    let reply;
    try {
      reply = await fetch(this.url + path, { ...request, credentials: "omit", redirect: "error", cache: "no-store" });
    } catch (error) {
      if (error instanceof DOMException && error.name === "AbortError") throw error;
      throw new RequestError("The server cannot be reached", { isRetryable: error instanceof TypeError });
    }
    if (reply.ok) return reply;
    const problem = await reply.json().catch(() => ({}));
    const waitS = Number.parseFloat(reply.headers.get("Retry-After") ?? "");
    throw new RequestError(problem.detail || problem.title || `The server replied ${reply.status}`, {
      status: reply.status,
      code: problem.code ?? "",
      isRetryable: problem.retryable ?? [429, 502, 503, 504].includes(reply.status),
      waitS: Number.isFinite(waitS) ? waitS : null,
    });
  }

  /** @param {unknown} error @returns {boolean} whether another key may help */
  isAboutKey(error) {
    return error instanceof RequestError && (error.status === 401 || error.status === 403);
  }

  /** @param {unknown} error @returns {string} what went wrong, for people */
  inWords(error) {
    if (error instanceof PictureError) return error.message;
    if (!(error instanceof RequestError)) return "Something went wrong in this page. Load it again.";
    if (error.status === 401) return "The server wants a key, or does not know this one. Enter the key below Options.";
    if (error.status === 403) return `The key may not do this: ${error.message}.`;
    if (error.status === 0) return "The server cannot be reached. Is it running, and is there a network?";
    if (error.status === 429) return "The server has no more room for this key now. Ask again in a while.";
    if (error.status === 503) return "The server is busy or starting. Ask again in a while.";
    return `The server could not answer: ${error.message}.`;
  }
}

/** @param {object} request @param {Blob | null} image @returns a multipart body whose size is exactly what is sent */
function multipart(request, image) {
  const mark = newKey();
  const part = (/** @type {string} */ name, /** @type {string} */ file, /** @type {string} */ type) =>
    `--${mark}\r\nContent-Disposition: form-data; name="${name}"${file}\r\nContent-Type: ${type}\r\n\r\n`;
  const body = new Blob([
    part("request", "", "application/json"), JSON.stringify(request), "\r\n",
    ...(image ? [part("image", '; filename="image"', image.type), image, "\r\n"] : []), `--${mark}--\r\n`,
  ]);
  return { body, type: `multipart/form-data; boundary=${mark}` };
}

/** 128 random bits; `randomUUID` is missing on plain http. */
function newKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** @param {number} seconds @param {AbortSignal} signal @returns {Promise<void>} */
function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    }, { once: true });
  });
}
