/** @file How text that others wrote may be shown: one rule for what is unprintable, as in the Python edge. */

// Controls, invisible formatting (bidi), lone surrogates, separators; but Persian words and family emoji need joiners.
const UNSAFE = /(?![\u200c\u200d])[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;
/** @type {Record<string, string>} */
const SHORT = { "\n": "\\n", "\r": "\\r", "\t": "\\t" };

/** Return `text` on one line, with escapes for what is unprintable; cut to `most` characters. @param {string} text @param {number} most */
export function printable(text, most) {
  const cut = lengthOf(text) > most ? `${Array.from(text.slice(0, 2 * most)).slice(0, most).join("")}...` : text;
  return cut.replace(UNSAFE, (character) => SHORT[character] ?? escaped(/** @type {number} */ (character.codePointAt(0))));
}

const BLANK = /^[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]*$/;

/** Whether Python's strip would leave nothing; `trim` knows other blanks. @param {string} text */
export const isBlank = (text) => BLANK.test(text);

/** Whether UTF-8 can write it: no half of a surrogate pair. @param {string} text */
export const isWellFormed = (text) => !/\p{Cs}/u.test(text);

/** Count characters as Python does, not UTF-16 units. @param {string} text */
export function lengthOf(text) {
  let pairs = 0;
  for (let at = 0; at < text.length - 1; at++) {
    const unit = text.charCodeAt(at);
    if (unit < 0xd800 || unit > 0xdbff) continue;
    const next = text.charCodeAt(at + 1);
    if (next >= 0xdc00 && next <= 0xdfff) pairs++;
  }
  return text.length - pairs;
}

/** @param {number} point */
function escaped(point) {
  const [mark, digits] = point < 0x100 ? ["x", 2] : point < 0x10000 ? ["u", 4] : ["U", 8];
  return `\\${mark}${point.toString(16).padStart(digits, "0")}`;
}

/** Write a text as Python's repr does. @param {string} text */
export function quoted(text) {
  const mark = text.includes("'") && !text.includes('"') ? '"' : "'";
  const safe = printable(text.replaceAll("\\", "\\\\"), Infinity);
  return mark + (mark === "'" ? safe.replaceAll("'", "\\'") : safe) + mark;
}
