/** @file What a client has learnt of its server and reuses: the model's budgets and the pictures that it holds. */

/** Shared by a client's conversations. Content keys name encoded originals. */
export class KnownServer {
  /** @type {Map<string, string>} */
  #imageIds = new Map(); // in the order in which they were used
  #most;
  /** @type {import("./replies.js").ModelResponse | null} */
  model = null;

  /** @param {number} most remembered pictures */
  constructor(most) {
    this.#most = most;
  }

  /** The server's name for a picture that it was sent before. @param {string | null} key */
  imageId(key) {
    return key === null ? null : (this.#imageIds.get(key) ?? null);
  }

  /** @param {string | null} key @param {string} imageId */
  remember(key, imageId) {
    if (key === null) return;
    this.#imageIds.delete(key);
    this.#imageIds.set(key, imageId);
    if (this.#imageIds.size > this.#most) this.#imageIds.delete(/** @type {string} */ (this.#imageIds.keys().next().value));
  }

  /** @param {string | null} key */
  forget(key) {
    if (key !== null) this.#imageIds.delete(key);
  }
}
