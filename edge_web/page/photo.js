/** @file The photo that is asked about: from a file, a drop, the clipboard; shown, and thrown away again. */

import { openPicture } from "./src/pictures.js";

/**
 * @typedef {object} Photo
 * @property {Blob} blob the original; it never leaves this page whole
 * @property {string} name
 * @property {number} width of the upright picture, in pixels
 * @property {number} height
 * @property {Promise<Blob>} [thumbnail] for the history, once it was wanted
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
  return { blob, name, width, height };
}

/** @param {DataTransfer | null} transfer @returns {File | null} the first picture of a drop or a paste */
export function pictureIn(transfer) {
  for (const item of transfer?.items ?? []) {
    if (item.kind === "file") return item.getAsFile();
  }
  return null;
}

/** Return the middle of a photo, small; the photo where that cannot be. @param {Photo} photo @returns {Promise<Blob>} */
export function thumbnailOf(photo) {
  return (photo.thumbnail ??= middleOf(photo.blob).catch(() => photo.blob));
}

/** @param {Blob} blob */
async function middleOf(blob) {
  const picture = await openPicture(blob, Infinity); // drawn by the library's worker: a large one takes half a second
  try {
    const side = Math.min(picture.width, picture.height);
    const [left, top] = [picture.width - side, picture.height - side].map((rest) => Math.floor(rest / 2));
    const shown = Math.min(side, THUMBNAIL_SIDE);
    const drawn = await picture.draw({ left, top, right: left + side, bottom: top + side }, { width: shown, height: shown });
    const bytes = await drawn.write("image/jpeg", 70);
    drawn.close();
    return bytes ? new Blob([bytes]) : blob;
  } finally {
    picture.close();
  }
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
