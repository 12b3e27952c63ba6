/** @file A picture in Node, through the package sharp, which whoever wants this installs beside ours. */

import { BadImageError, UsageError } from "./errors.js";
import { hex, sha256 } from "./sha256.js";

/** @typedef {import("./replies.js").PixelBox} PixelBox @typedef {{width: number, height: number}} Size */

/** A decoded picture, upright, sRGB, over white. */
export class SharpPicture {
  /** @type {string[]} */
  notes = [];

  /** @param {any} sharp @param {Uint8Array<ArrayBuffer>} file @param {Uint8Array} data three bytes a pixel @param {Size} size */
  constructor(sharp, file, data, { width, height }) {
    this.sharp = sharp;
    this.file = file;
    this.data = data;
    this.width = width;
    this.height = height;
    this.encoded_bytes = file.length;
  }

  /** @param {Blob | Uint8Array | string} source a file, its bytes, or its path @param {number} maxPixels */
  static async open(source, maxPixels) {
    const sharp = await loaded();
    const file = await bytesOf(source);
    try {
      const picture = sharp(file, { limitInputPixels: maxPixels }).rotate().flatten({ background: "#fff" });
      const { data, info } = await picture.toColourspace("srgb").raw().toBuffer({ resolveWithObject: true });
      return new SharpPicture(sharp, file, data, info);
    } catch (error) {
      throw new BadImageError(`the picture cannot be read: ${error instanceof Error ? error.message : error}`);
    }
  }

  async contentKey() {
    return hex(sha256(this.file));
  }

  /** Return a region (null: all) at a size, ready to be written. @param {PixelBox | null} pixels @param {Size} size */
  async draw(pixels, { width, height }) {
    const { left, top, right, bottom } = pixels ?? { left: 0, top: 0, right: this.width, bottom: this.height };
    const raw = { width: this.width, height: this.height, channels: 3 };
    const region = this.sharp(this.data, { raw }).extract({ left, top, width: right - left, height: bottom - top });
    const drawn = region.resize(width, height, { fit: "fill", kernel: "lanczos3" });
    return {
      width,
      height,
      write: async (/** @type {string} */ type, /** @type {number | null} */ quality) => {
        const options = type === "image/webp" ? { quality, effort: 6 } : { quality, chromaSubsampling: pixels ? "4:4:4" : "4:2:0" };
        return new Uint8Array(await drawn.clone().toFormat(type.slice(6), quality === null ? {} : options).toBuffer());
      },
      close: () => {},
    };
  }

  close() {
    this.data = new Uint8Array();
  }
}

/** @returns {Promise<any>} */
async function loaded() {
  const name = "sharp"; // by a variable: it is not there where browsers look for it
  try {
    return (await import(/* @vite-ignore */ /* webpackIgnore: true */ name)).default;
  } catch {
    throw new UsageError("pictures in Node need the package sharp: npm install sharp");
  }
}

/** @param {Blob | Uint8Array | string} source */
async function bytesOf(source) {
  if (source instanceof Uint8Array) return new Uint8Array(source);
  if (typeof source !== "string") return new Uint8Array(await source.arrayBuffer());
  const name = "node:fs/promises";
  const { readFile } = await import(/* @vite-ignore */ /* webpackIgnore: true */ name);
  try {
    return new Uint8Array(await readFile(source));
  } catch (error) {
    throw new BadImageError(`the picture cannot be read: ${error instanceof Error ? error.message : error}`);
  }
}
