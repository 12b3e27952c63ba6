/** @file What a client may be told once, by the names of the Python edge; times in seconds. */

import { UsageError } from "./errors.js";

/**
 * @typedef {object} Settings
 * @property {"webp" | "jpeg" | "png"} format of what is uploaded, where server and browser allow it
 * @property {number} image_quality of the small copy, 1 to 100
 * @property {number} patch_quality of the region
 * @property {number} min_quality the least that a limit may lead to
 * @property {number} max_original_pixels larger pictures are refused
 * @property {number} total_timeout_s for one request
 * @property {number} retries of one request, after the first try
 * @property {number} retry_wait_s before the first retry; doubles with each
 * @property {number} max_retry_wait_s between two tries, unless the server says
 * @property {number} max_retry_after_s the longest wait taken from a server
 * @property {boolean} trace name a trace in each request, 70 bytes
 * @property {number} remembered_images pictures that need no second upload
 */

/** @type {Readonly<Settings>} */
export const DEFAULTS = Object.freeze({
  format: "webp",
  image_quality: 40,
  patch_quality: 85,
  min_quality: 30,
  max_original_pixels: 16_384 * 16_384, // more than browsers can draw
  total_timeout_s: 300,
  retries: 2,
  retry_wait_s: 0.5,
  max_retry_wait_s: 8,
  max_retry_after_s: 120,
  trace: false,
  remembered_images: 256,
});

const ENCODING = ["format", "image_quality", "patch_quality"];

/**
 * Return the settings with the defaults for what is not given, and whether encodings may be those that a server names:
 * nobody has said which they shall be. Throws UsageError.
 *
 * @param {Partial<Settings>} given
 * @returns {Settings & {may_follow_recipes: boolean}}
 */
export function settingsOf(given) {
  for (const [name, value] of Object.entries(given)) {
    const usual = /** @type {any} */ (DEFAULTS)[name];
    if (usual === undefined) throw new UsageError(`${name} is no setting`);
    const isRight = typeof value !== "number" ? name !== "format" || ["webp", "jpeg", "png"].includes(String(value)) : value >= 0 && value < Infinity;
    if (typeof value !== typeof usual || !isRight) throw new UsageError(`${name} cannot be ${value}`);
  }
  return { ...DEFAULTS, ...given, may_follow_recipes: !ENCODING.some((name) => name in given) };
}
