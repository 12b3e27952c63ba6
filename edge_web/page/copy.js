/** @file The small copy of a photo, and regions of it in full detail. */

import { resized } from "./resize.js";

const LONGEST_SIDE = 65_535; // beyond these a canvas stays empty, without a word
const MOST_PIXELS = 16_384 * 16_384;
const UNLIMITED = { min_side_pixels: 1, max_aspect_ratio: Infinity };
const MIME = ["image/webp", "image/jpeg"]; // in order of preference

/** The picture cannot be sent; the message says why. */
export class PictureError extends Error {}

/** A decoded photo, upright. Close it: it holds four bytes for each pixel. */
export class Picture {
  /** @param {ImageBitmap} bitmap */
  constructor(bitmap) {
    this.bitmap = bitmap;
    this.width = bitmap.width;
    this.height = bitmap.height;
  }

  /** @param {Blob} blob @returns {Promise<Picture>} */
  static async open(blob) {
    // Never with a rectangle: Chromium takes another one where EXIF turns the picture.
    const bitmap = await createImageBitmap(blob).catch(() => {
      throw new PictureError("This browser cannot open the photo.");
    });
    const { width, height } = bitmap;
    if (width * height > MOST_PIXELS || Math.max(width, height) > LONGEST_SIDE) {
      bitmap.close();
      throw new PictureError(`The photo has ${width} × ${height} pixels: more than browsers can draw.`);
    }
    return new Picture(bitmap);
  }

  /** @param {Budget} budget @param {Limits} limits @param {number} quality 0 to 1 */
  small(budget, limits, quality) {
    return this.region({ left: 0, top: 0, right: this.width, bottom: this.height }, budget, quality, limits);
  }

  /**
   * Return a region, encoded, no larger than the budget.
   *
   * @typedef {{max_width: number, max_height: number, max_pixels?: number | null, max_bytes: number,
   *   formats: string[]}} Budget
   * @typedef {{min_side_pixels: number, max_aspect_ratio: number}} Limits
   * @param {{left: number, top: number, right: number, bottom: number}} pixels
   * @param {Budget} budget
   * @param {number} quality
   * @param {Limits} [limits] of what the server takes as a whole picture
   * @returns {Promise<Blob>}
   */
  async region({ left, top, right, bottom }, budget, quality, limits = UNLIMITED) {
    if (!(left >= 0 && left < right && right <= this.width && top >= 0 && top < bottom && bottom <= this.height)) {
      throw new PictureError("The server asks for a region that is not in the photo.");
    }
    const [width, height] = [right - left, bottom - top];
    const size = fit(width, height, budget, limits);
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [size.width, size.height];
    const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d", { colorSpace: "srgb" }));
    if (size.width !== width || size.height !== height) {
      context.putImageData(resized(this.bitmap, { left, top, right, bottom }, size.width, size.height), 0, 0);
    } else {
      context.fillStyle = "#fff"; // under what is transparent
      context.fillRect(0, 0, width, height);
      context.drawImage(this.bitmap, left, top, width, height, 0, 0, width, height);
    }
    const encoded = await encode(canvas, MIME.filter((type) => budget.formats.includes(type)), quality);
    canvas.width = canvas.height = 0; // gives its memory back at once
    if (encoded.size > budget.max_bytes) throw new PictureError("The picture is larger than the server takes.");
    return encoded;
  }

  close() {
    this.bitmap.close();
  }
}

/**
 * Return the size to send a picture at, as the Python edge does: its own shape, but a picture that the server would
 * refuse as too thin is thickened; boxes from 0 to 1 stay right.
 *
 * @param {number} width @param {number} height @param {Budget} budget @param {Limits} limits
 */
export function fit(width, height, budget, limits) {
  const { min_side_pixels: side, max_aspect_ratio: aspect } = limits;
  const within = {
    ...budget,
    max_width: Math.trunc(Math.min(budget.max_width, budget.max_height * aspect)),
    max_height: Math.trunc(Math.min(budget.max_height, budget.max_width * aspect)),
  };
  const fitted = fitWithin(width, height, within);
  const thinnest = Math.max(side, Math.ceil(Math.max(fitted.width, fitted.height) / aspect));
  const size = { width: Math.max(fitted.width, thinnest), height: Math.max(fitted.height, thinnest) };
  const most = budget.max_pixels ?? Infinity;
  if (size.width * size.height <= most) return size;
  if (size.width >= size.height) return { ...size, width: Math.floor(most / size.height) };
  return { ...size, height: Math.floor(most / size.width) };
}

/** As `fit_within` of secondglance_protocol. @param {number} width @param {number} height @param {Budget} budget */
function fitWithin(width, height, budget) {
  let scale = Math.min(1, budget.max_width / width, budget.max_height / height);
  if (budget.max_pixels) scale = Math.min(scale, Math.sqrt(budget.max_pixels / (width * height)));
  if (scale === 1) return { width, height };
  const snap = budget.max_pixels ? Math.floor : halfToEven;
  return {
    width: Math.min(Math.max(1, snap(width * scale)), budget.max_width),
    height: Math.min(Math.max(1, snap(height * scale)), budget.max_height),
  };
}

/** As Python rounds. @param {number} value */
function halfToEven(value) {
  const down = Math.floor(value);
  return value - down === 0.5 ? down + (down % 2) : Math.round(value);
}

/** @param {HTMLCanvasElement} canvas @param {string[]} types @param {number} quality @returns {Promise<Blob>} */
async function encode(canvas, types, quality) {
  for (const type of types) {
    /** @type {Blob | null} */
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, type, quality));
    if (blob?.type === type) return type === "image/webp" ? withoutProfile(blob) : blob; // else it is a PNG
  }
  throw new PictureError("This browser can write no picture that the server takes.");
}

/**
 * Return a WebP without the colour profile that browsers put into it: sRGB is what everybody assumes, and the
 * profile is an eighth of a small copy.
 *
 * @param {Blob} webp @returns {Promise<Blob>}
 */
export async function withoutProfile(webp) {
  const bytes = new Uint8Array(await webp.arrayBuffer());
  const view = new DataView(bytes.buffer);
  const name = (/** @type {number} */ at) => String.fromCharCode(...bytes.subarray(at, at + 4));
  for (let at = 12; at + 8 <= bytes.length; ) {
    const size = view.getUint32(at + 4, true);
    const end = at + 8 + size + (size % 2); // chunks begin at even places
    if (name(at) === "VP8 " && end <= bytes.length) {
      const head = new Uint8Array(12);
      head.set(bytes.subarray(0, 12));
      new DataView(head.buffer).setUint32(4, 4 + end - at, true);
      return new Blob([head, bytes.subarray(at, end)], { type: webp.type });
    }
    at = end;
  }
  return webp;
}
