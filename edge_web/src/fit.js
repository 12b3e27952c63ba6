/** @file How large a picture may be sent: the Python edge's sizes, to the pixel. */

const MAX_SENT_SIDE = 16_383; // WebP has no longer one
const MAX_SENT_PIXELS = 25_000_000;
const UNLIMITED = { min_side_pixels: 1, max_aspect_ratio: Infinity };

/**
 * @typedef {{width: number, height: number}} Size
 * @typedef {{max_width: number, max_height: number, max_pixels?: number | null}} Budget
 * @typedef {{min_side_pixels: number, max_aspect_ratio: number}} Limits
 */

/** Return the budget within what this edge would encode for any server. @param {Budget} given @returns {Budget} */
export function bounded(given) {
  const max_width = Math.min(given.max_width, MAX_SENT_SIDE);
  const max_height = Math.min(given.max_height, MAX_SENT_SIDE);
  let max_pixels = given.max_pixels ?? null;
  if (max_width * max_height > MAX_SENT_PIXELS) max_pixels = Math.min(max_pixels ?? MAX_SENT_PIXELS, MAX_SENT_PIXELS);
  return { max_width, max_height, max_pixels };
}

/** Return the budget with a share of its sides, and no less than `least`. @param {Budget} budget @param {number} share @returns {Budget} */
export function scaled({ max_width, max_height, max_pixels }, share, least = 1) {
  const side = (/** @type {number} */ whole) => Math.max(least, halfToEven(whole * share));
  return {
    max_width: side(max_width),
    max_height: side(max_height),
    max_pixels: max_pixels == null ? null : Math.max(1, halfToEven(max_pixels * share ** 2)),
  };
}

/**
 * Return the size to send a picture at: its own shape, but a picture that the server would refuse as too thin is
 * thickened; boxes from 0 to 1 stay right.
 *
 * @param {number} width @param {number} height @param {Budget} budget @param {Limits} [limits] of a whole picture
 * @returns {Size}
 */
export function fit(width, height, budget, limits = UNLIMITED) {
  const { min_side_pixels: side, max_aspect_ratio: aspect } = limits;
  const fitted = fitWithin(width, height, {
    ...budget,
    max_width: Math.trunc(Math.min(budget.max_width, budget.max_height * aspect)),
    max_height: Math.trunc(Math.min(budget.max_height, budget.max_width * aspect)),
  });
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
