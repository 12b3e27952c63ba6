/** @file Opens a picture with what there is: the browser's own decoders, or sharp in Node. */

/**
 * @typedef {import("./conversation.js").Original} Original
 * @typedef {Blob | Uint8Array | string | Original} Source a file; in Node its bytes or its path, too; or whatever
 *   draws regions of a picture by itself
 *
 * @param {Source} source
 * @param {number} maxPixels
 * @returns {Promise<Original>}
 */
export async function openPicture(source, maxPixels) {
  if (typeof source === "object" && "draw" in source) return source;
  if (typeof createImageBitmap === "function") {
    const { openAside } = await import("./aside.js");
    return await openAside(/** @type {Blob} */ (source), maxPixels);
  }
  const { SharpPicture } = await import("./sharp.js");
  return await SharpPicture.open(source, maxPixels);
}
