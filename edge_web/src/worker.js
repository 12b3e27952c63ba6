/** @file The worker that decodes, resizes and writes pictures; `aside.js` asks it. */

import { BrowserPicture } from "./browser.js";
import { BadImageError } from "./errors.js";

/** Pictures and drawings by numbers. @type {Map<number, any>} */
const held = new Map();
let last = 0;

/** @param {unknown} thing */
function keep(thing) {
  held.set(++last, thing);
  return last;
}

/** @type {Record<string, (...given: any[]) => any>} */
const CALLS = {
  async open(blob, maxPixels) {
    const picture = await BrowserPicture.open(blob, maxPixels);
    return { key: keep(picture), width: picture.width, height: picture.height };
  },
  contentKey: (key) => held.get(key).contentKey(),
  draw: async (key, pixels, size) => keep(await held.get(key).draw(pixels, size)),
  write: (key, type, quality) => held.get(key).write(type, quality),
  close(key) {
    held.get(key).close();
    held.delete(key);
  },
};

self.onmessage = async ({ data: [number, name, ...given] }) => {
  try {
    self.postMessage([number, await CALLS[name](...given)]);
  } catch (error) {
    self.postMessage([number, null, String(/** @type {any} */ (error)?.message), error instanceof BadImageError]);
  }
};
self.postMessage(typeof OffscreenCanvas === "function"); // whether this worker can draw
