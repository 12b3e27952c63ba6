/** @file Has pictures decoded, resized and written by a worker, so that the page stays responsive; without one, here. */

import { BrowserPicture } from "./browser.js";
import { BadImageError } from "./errors.js";

/** @typedef {import("./conversation.js").Original} Original */

const PATIENCE_MS = 5000; // for the worker's file

/** One for all pictures; null where there can be none. @type {Promise<Aside | null> | null} */
let started = null;

/** @param {Blob} blob @param {number} maxPixels @returns {Promise<Original>} */
export async function openAside(blob, maxPixels) {
  const aside = await (started ??= Aside.start());
  return aside ? await aside.open(blob, maxPixels) : await BrowserPicture.open(blob, maxPixels);
}

/** A worker and the calls that it has not answered. */
class Aside {
  /** @type {Map<number, {resolve: (value: any) => void, reject: (error: Error) => void}>} */
  #waiting = new Map();
  #last = 0;
  #worker;

  /** @param {Worker} worker */
  constructor(worker) {
    this.#worker = worker;
    worker.onmessage = ({ data: [number, value, message, isPicture] }) => {
      const { resolve, reject } = /** @type {any} */ (this.#waiting.get(number));
      this.#waiting.delete(number);
      if (message === undefined) resolve(value);
      else reject(isPicture ? new BadImageError(message) : new Error(message));
    };
  }

  /** Null for a page of another origin than this file, a strict policy, an old browser. @returns {Promise<Aside | null>} */
  static async start() {
    try {
      const worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
      const canDraw = await new Promise((resolve) => {
        worker.onmessage = ({ data }) => resolve(data);
        worker.onerror = () => resolve(false);
        setTimeout(resolve, PATIENCE_MS);
      });
      if (canDraw) return new Aside(worker);
      worker.terminate();
    } catch {
      // a SecurityError
    }
    return null;
  }

  /** @param {string} name @param {...unknown} given @returns {Promise<any>} */
  #call(name, ...given) {
    return new Promise((resolve, reject) => {
      this.#waiting.set(++this.#last, { resolve, reject });
      this.#worker.postMessage([this.#last, name, ...given]);
    });
  }

  /** @param {Blob} blob @param {number} maxPixels @returns {Promise<Original>} */
  async open(blob, maxPixels) {
    const { key, width, height } = await this.#call("open", blob, maxPixels);
    const close = (/** @type {number} */ what) => void this.#call("close", what);
    return {
      width,
      height,
      encoded_bytes: blob.size,
      notes: [],
      contentKey: () => this.#call("contentKey", key),
      draw: async (pixels, size) => {
        const drawn = await this.#call("draw", key, pixels, size);
        return { ...size, write: (type, quality) => this.#call("write", drawn, type, quality), close: () => close(drawn) };
      },
      close: () => close(key),
    };
  }
}
