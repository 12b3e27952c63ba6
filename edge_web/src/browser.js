/** @file A photo as browsers decode it: the small copy, and regions of it in full detail. */

import { BadImageError } from "./errors.js";
import { hex, sha256 } from "./sha256.js";
import { blank, resized } from "./resize.js";

const LONGEST_SIDE = 65_535; // beyond these a canvas stays empty, without a word
const MOST_PIXELS = 16_384 * 16_384;

/** @typedef {import("./replies.js").PixelBox} PixelBox @typedef {{width: number, height: number}} Size */

/** A decoded photo, upright. Close it: it holds four bytes for each pixel. */
export class BrowserPicture {
  /** @type {string[]} */
  notes = [];

  /** @param {Blob} blob @param {ImageBitmap} bitmap */
  constructor(blob, bitmap) {
    this.blob = blob;
    this.bitmap = bitmap;
    this.width = bitmap.width;
    this.height = bitmap.height;
    this.encoded_bytes = blob.size;
  }

  /** @param {Blob} blob @param {number} maxPixels @returns {Promise<BrowserPicture>} */
  static async open(blob, maxPixels) {
    // Never with a rectangle: Chromium takes another one where EXIF turns the picture.
    const bitmap = await createImageBitmap(blob).catch(() => {
      throw new BadImageError("This browser cannot open the photo.");
    });
    const { width, height } = bitmap;
    if (width * height > Math.min(MOST_PIXELS, maxPixels) || Math.max(width, height) > LONGEST_SIDE) {
      bitmap.close();
      throw new BadImageError(`The photo has ${width} × ${height} pixels: more than browsers can draw.`);
    }
    return new BrowserPicture(blob, bitmap);
  }

  async contentKey() {
    const bytes = new Uint8Array(await this.blob.arrayBuffer());
    // Pages on plain http have no `crypto.subtle`.
    return hex(crypto.subtle ? new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)) : sha256(bytes));
  }

  /** Return a region (null: all) at a size, ready to be written. @param {PixelBox | null} pixels @param {Size} size */
  async draw(pixels, { width, height }) {
    const region = pixels ?? { left: 0, top: 0, right: this.width, bottom: this.height };
    const [fromWidth, fromHeight] = [region.right - region.left, region.bottom - region.top];
    const { canvas, context } = blank(width, height);
    if (width !== fromWidth || height !== fromHeight) {
      context.putImageData(resized(this.bitmap, region, width, height), 0, 0);
    } else {
      context.fillStyle = "#fff"; // under what is transparent
      context.fillRect(0, 0, width, height);
      context.drawImage(this.bitmap, region.left, region.top, width, height, 0, 0, width, height);
    }
    return {
      width,
      height,
      write: (/** @type {string} */ type, /** @type {number | null} */ quality) => written(canvas, type, quality),
      close: () => void (canvas.width = canvas.height = 0), // gives its memory back at once
    };
  }

  close() {
    this.bitmap.close();
  }
}

/** @param {OffscreenCanvas | HTMLCanvasElement} canvas @param {string} type @param {number | null} quality 1 to 100 @returns null where browsers cannot */
async function written(canvas, type, quality) {
  const share = (quality ?? 100) / 100;
  /** @type {Blob | null} */
  const blob = await ("convertToBlob" in canvas
    ? canvas.convertToBlob({ type, quality: share })
    : new Promise((resolve) => canvas.toBlob(resolve, type, share)));
  if (blob?.type !== type) return null; // what a browser cannot write becomes a PNG
  const bytes = new Uint8Array(await blob.arrayBuffer());
  return type === "image/webp" ? withoutProfile(bytes) : bytes;
}

/**
 * Return a WebP without the colour profile that browsers put into it: sRGB is what everybody assumes, and the
 * profile is an eighth of a small copy.
 *
 * @param {Uint8Array<ArrayBuffer>} bytes
 */
export function withoutProfile(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const name = (/** @type {number} */ at) => String.fromCharCode(...bytes.subarray(at, at + 4));
  for (let at = 12; at + 8 <= bytes.length; ) {
    const size = view.getUint32(at + 4, true);
    const end = at + 8 + size + (size % 2); // chunks begin at even places
    if (name(at) === "VP8 " && end <= bytes.length) {
      const bare = new Uint8Array(12 + end - at);
      bare.set(bytes.subarray(0, 12));
      bare.set(bytes.subarray(at, end), 12);
      new DataView(bare.buffer).setUint32(4, 4 + end - at, true);
      return bare;
    }
    at = end;
  }
  return bytes;
}
