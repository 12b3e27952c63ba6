/** @file Encodes what is sent: as few bytes as asked for, in a format that the server takes. */

import { BadImageError } from "./errors.js";

/** @typedef {(mediaType: string, quality: number | null) => Promise<Uint8Array<ArrayBuffer> | null>} Write null: not here */

const PREFERENCE = ["webp", "jpeg", "png"];
const QUALITY_STEP = 8;

/**
 * Return the server's recipe with the least quality that the edge allows; the edge's own where it names none.
 *
 * @param {import("./replies.js").EncodingRecipe | null | undefined} named
 * @param {{format: string, min_quality: number}} settings
 * @param {number} quality
 */
export function recipeOf(named, { format, min_quality }, quality) {
  if (!named) return { format, quality, min_quality, scale: 1 };
  return { ...named, min_quality: Math.min(min_quality, named.quality) };
}

/**
 * Encode at the recipe's quality, or the first in steps of 8 below it that fits, or the least. Throws BadImageError
 * if the server accepts no format that can be written here.
 *
 * @param {{width: number, height: number, write: Write}} drawn
 * @param {{format: string, quality: number, min_quality: number}} recipe
 * @param {string[]} accepted media types
 * @param {number} maxBytes
 * @returns {Promise<import("./wire.js").Encoded>}
 */
export async function encode(drawn, recipe, accepted, maxBytes) {
  const { width, height } = drawn;
  for (const format of new Set([recipe.format, ...PREFERENCE])) {
    const media_type = `image/${format}`;
    if (!accepted.includes(media_type)) continue;
    let quality = format === "png" ? null : recipe.quality;
    for (;;) {
      const data = await drawn.write(media_type, quality);
      if (data === null) break; // browsers have formats of their own
      if (data.length <= maxBytes || quality === null || quality <= recipe.min_quality) return { data, media_type, width, height };
      quality = Math.max(recipe.min_quality, quality - QUALITY_STEP);
    }
  }
  throw new BadImageError("the server accepts none of image/jpeg, image/webp, image/png");
}
