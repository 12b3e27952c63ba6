/**
 * @file Makes pictures smaller as the Python edge does: averages of whole boxes first, then Lanczos.
 *
 * Browsers offer only filters of their own, and the model notices: other pixels, other first answers. The source is
 * read in bands, so that a large photo is never in memory twice.
 */

const GAP = 3; // boxes leave at least three pixels for each pixel of the target: Pillow's reducing_gap
const LOBES = 3;
const BAND_PIXELS = 4_000_000;

/**
 * @typedef {{left: number, top: number, right: number, bottom: number}} Region in pixels, half-open
 * @typedef {{width: number, height: number, data: Float32Array}} Raster red, green, blue; 0 to 255
 */

/**
 * Return an empty canvas, which is on no page where browsers have such; workers have no others.
 *
 * @param {number} width @param {number} height
 * @returns {{canvas: OffscreenCanvas | HTMLCanvasElement, context: OffscreenCanvasRenderingContext2D}}
 */
export function blank(width, height, willReadFrequently = false) {
  const isOff = typeof OffscreenCanvas === "function";
  const canvas = isOff ? new OffscreenCanvas(width, height) : Object.assign(document.createElement("canvas"), { width, height });
  return { canvas, context: /** @type {any} */ (canvas.getContext("2d", { colorSpace: "srgb", willReadFrequently })) };
}

/**
 * Return a region of a picture at a smaller size; what is transparent lies over white.
 *
 * @param {ImageBitmap} bitmap @param {Region} region @param {number} width @param {number} height
 * @returns {ImageData}
 */
export function resized(bitmap, region, width, height) {
  const [fromWidth, fromHeight] = [region.right - region.left, region.bottom - region.top];
  const boxWidth = Math.max(1, Math.floor(fromWidth / width / GAP));
  const boxHeight = Math.max(1, Math.floor(fromHeight / height / GAP));
  const boxes = averaged(bitmap, region, boxWidth, boxHeight);
  const wide = lanczos(boxes, width, fromWidth / boxWidth);
  const done = transposed(lanczos(transposed(wide), height, fromHeight / boxHeight));
  const pixels = new Uint8ClampedArray(4 * width * height); // rounds and clamps
  for (let pixel = 0; pixel < width * height; pixel++) {
    for (let band = 0; band < 3; band++) pixels[4 * pixel + band] = done.data[3 * pixel + band];
    pixels[4 * pixel + 3] = 255;
  }
  return new ImageData(pixels, width, height, { colorSpace: "srgb" });
}

/** @param {ImageBitmap} bitmap @param {Region} region @param {number} boxWidth @param {number} boxHeight @returns {Raster} */
function averaged(bitmap, region, boxWidth, boxHeight) {
  const [fromWidth, fromHeight] = [region.right - region.left, region.bottom - region.top];
  const [width, height] = [Math.ceil(fromWidth / boxWidth), Math.ceil(fromHeight / boxHeight)];
  const data = new Float32Array(3 * width * height);
  const boxesInBand = Math.max(1, Math.floor(BAND_PIXELS / (fromWidth * boxHeight)));
  const { canvas, context } = blank(fromWidth, Math.min(fromHeight, boxesInBand * boxHeight), true);
  for (let top = 0; top < fromHeight; top += canvas.height) {
    const rows = Math.min(canvas.height, fromHeight - top);
    context.fillStyle = "#fff";
    context.fillRect(0, 0, fromWidth, rows);
    context.drawImage(bitmap, region.left, region.top + top, fromWidth, rows, 0, 0, fromWidth, rows);
    const band = context.getImageData(0, 0, fromWidth, rows).data;
    for (let y = 0; y < rows; y++) {
      const row = 3 * width * Math.floor((top + y) / boxHeight);
      for (let x = 0, from = 4 * y * fromWidth; x < fromWidth; x++, from += 4) {
        const to = row + 3 * Math.floor(x / boxWidth);
        data[to] += band[from];
        data[to + 1] += band[from + 1];
        data[to + 2] += band[from + 2];
      }
    }
  }
  canvas.width = canvas.height = 0; // gives its memory back at once
  for (let y = 0; y < height; y++) {
    const rows = Math.min(boxHeight, fromHeight - y * boxHeight);
    for (let x = 0; x < width; x++) {
      const pixels = rows * Math.min(boxWidth, fromWidth - x * boxWidth);
      for (let band = 0; band < 3; band++) {
        const at = 3 * (y * width + x) + band;
        data[at] = Math.round(data[at] / pixels); // as Pillow, which keeps bytes between its steps
      }
    }
  }
  return { width, height, data };
}

/**
 * Return the raster with `width` columns made of the first `extent` columns, which may be a fraction.
 *
 * @param {Raster} from @param {number} width @param {number} extent @returns {Raster}
 */
function lanczos(from, width, extent) {
  const data = new Float32Array(3 * width * from.height);
  const scale = Math.max(1, extent / width);
  for (let x = 0; x < width; x++) {
    const center = ((x + 0.5) * extent) / width;
    const first = Math.max(0, Math.trunc(center - LOBES * scale + 0.5));
    const end = Math.min(from.width, Math.trunc(center + LOBES * scale + 0.5));
    const weights = Array.from({ length: end - first }, (_, at) => kernel((first + at + 0.5 - center) / scale));
    const sum = weights.reduce((total, weight) => total + weight, 0);
    for (let y = 0; y < from.height; y++) {
      const [row, to] = [3 * y * from.width, 3 * (y * width + x)];
      for (let band = 0; band < 3; band++) {
        let value = 0;
        for (let at = 0; at < weights.length; at++) value += weights[at] * from.data[row + 3 * (first + at) + band];
        data[to + band] = Math.min(255, Math.max(0, Math.round(value / sum)));
      }
    }
  }
  return { width, height: from.height, data };
}

/** @param {number} x */
function kernel(x) {
  if (x === 0) return 1;
  if (Math.abs(x) >= LOBES) return 0;
  const angle = Math.PI * x;
  return (LOBES * Math.sin(angle) * Math.sin(angle / LOBES)) / (angle * angle);
}

/** @param {Raster} from @returns {Raster} */
function transposed(from) {
  const data = new Float32Array(from.data.length);
  for (let y = 0; y < from.height; y++) {
    for (let x = 0; x < from.width; x++) {
      for (let band = 0; band < 3; band++) {
        data[3 * (x * from.height + y) + band] = from.data[3 * (y * from.width + x) + band];
      }
    }
  }
  return { width: from.height, height: from.width, data };
}
