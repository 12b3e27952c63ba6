/** @file The photo that is asked about: from a file, a drop, the clipboard; shown, and thrown away again. */

/**
 * @typedef {object} Photo
 * @property {Blob} blob the original; it never leaves this page whole
 * @property {string} name
 * @property {number} width of the upright picture, in pixels
 * @property {number} height
 * @property {Blob} thumbnail for the history
 */

const THUMBNAIL_SIDE = 128;

/** The photo cannot be shown, and so cannot be asked about; the message says what to do. */
export class UnreadableError extends Error {}

/**
 * Show a picture in `image` and return what is known of it.
 *
 * @param {Blob} blob
 * @param {string} name
 * @param {HTMLImageElement} image its old picture is given back
 * @returns {Promise<Photo>}
 */
export async function open(blob, name, image) {
  const loader = new Image();
  loader.src = URL.createObjectURL(blob);
  try {
    await loader.decode();
  } catch {
    URL.revokeObjectURL(loader.src);
    throw new UnreadableError(await whyUnreadable(blob));
  }
  if (image.src) URL.revokeObjectURL(image.src);
  image.src = loader.src;
  image.alt = `The photo: ${name}`;
  await image.decode();
  const { naturalWidth: width, naturalHeight: height } = image;
  return { blob, name, width, height, thumbnail: await thumbnailOf(image) };
}

/** @param {DataTransfer | null} transfer @returns {File | null} the first picture of a drop or a paste */
export function pictureIn(transfer) {
  for (const item of transfer?.items ?? []) {
    if (item.kind === "file") return item.getAsFile();
  }
  return null;
}

/**
 * Draw a region of the picture, enlarged or reduced to at most `side` pixels.
 *
 * @param {HTMLImageElement} image
 * @param {{left: number, top: number, right: number, bottom: number}} pixels
 * @param {HTMLCanvasElement} canvas
 */
export function drawRegion(image, pixels, canvas, side = 320) {
  const [width, height] = [pixels.right - pixels.left, pixels.bottom - pixels.top];
  const scale = side / Math.max(width, height);
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const context = canvas.getContext("2d");
  context?.drawImage(image, pixels.left, pixels.top, width, height, 0, 0, canvas.width, canvas.height);
}

/** @param {HTMLImageElement} image @returns {Promise<Blob>} */
function thumbnailOf(image) {
  const scale = THUMBNAIL_SIDE / Math.min(image.naturalWidth, image.naturalHeight);
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = THUMBNAIL_SIDE;
  const [width, height] = [image.naturalWidth * scale, image.naturalHeight * scale];
  const [x, y] = [(THUMBNAIL_SIDE - width) / 2, (THUMBNAIL_SIDE - height) / 2];
  canvas.getContext("2d")?.drawImage(image, x, y, width, height);
  return new Promise((resolve, reject) => {
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("no thumbnail"))), "image/jpeg", 0.7);
  });
}

/** @param {Blob} blob @returns {Promise<string>} why this browser shows no such picture, and what helps */
async function whyUnreadable(blob) {
  const head = new TextDecoder("latin1").decode(await blob.slice(0, 32).arrayBuffer());
  if (/^.{4}ftyp(hei|hev|mif1|msf1)/s.test(head)) {
    return "This browser cannot open HEIC photos. Save the photo as JPEG first: on an iPhone choose" +
      " Settings, Camera, Formats, Most Compatible, or share the photo by mail, which makes a JPEG of it.";
  }
  if (/^(II\*\0|MM\0\*)/.test(head)) return "This browser cannot open TIFF pictures. Save it as JPEG or PNG first.";
  if (/^%PDF/.test(head)) return "This is a PDF document, not a picture. Save the page as JPEG or PNG first.";
  if (blob.size === 0) return "This file is empty.";
  return "This browser cannot open this file as a picture. JPEG, PNG, WebP, AVIF, GIF and BMP work.";
}
