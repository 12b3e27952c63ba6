/** @file Writes results into the page; all text goes in as text, never as markup. */

import { bytesInWords, share } from "./words.js";

const MOST_REMEMBERED = 100;

/** @template {Element} [T=HTMLElement] @param {string} selector @returns {T} */
export function find(selector) {
  const found = document.querySelector(selector);
  if (!found) throw new Error(`no ${selector}`);
  return /** @type {T} */ (/** @type {unknown} */ (found));
}

/** @param {string} name @param {string} [text] @param {Record<string, string>} [attributes] */
function element(name, text = "", attributes = {}) {
  const made = document.createElement(name);
  made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

/**
 * @param {"first" | "second"} id
 * @param {string} answer
 * @param {string} words
 * @param {boolean} isSure
 */
export function showAnswer(id, answer, words, isSure) {
  const article = find(`#${id}`);
  find(`#${id} .answer`).textContent = answer.trim() || "(no answer)";
  const verdict = find(`#${id} .verdict`);
  verdict.textContent = words;
  verdict.className = `verdict ${isSure ? "sure" : "unsure"}`;
  article.classList.remove("replaced");
  article.hidden = false;
  find("#result").hidden = false;
  article.scrollIntoView({ block: "nearest" });
}

/** @param {{x0: number, y0: number, x1: number, y1: number} | null} box of the upright photo, 0 to 1 */
export function showRegion(box) {
  const region = find("#region");
  region.hidden = box === null;
  if (box === null) return;
  const percent = (/** @type {number} */ part) => `${100 * part}%`;
  Object.assign(region.style, {
    left: percent(box.x0),
    top: percent(box.y0),
    width: percent(box.x1 - box.x0),
    height: percent(box.y1 - box.y0),
  });
}

/** Show the region as it was sent. @param {Blob} region */
export function showRegionSent(region) {
  const picture = /** @type {HTMLImageElement} */ (find("#crop"));
  if (picture.src) URL.revokeObjectURL(picture.src);
  picture.src = URL.createObjectURL(region);
  find("#zoom").hidden = false;
}

/**
 * @param {{name: string, bytes: number, counted: number | null}[]} sent
 * @param {number} original bytes of the photo
 */
export function showBytes(sent, original) {
  const total = sent.reduce((sum, part) => sum + part.bytes, 0);
  const rows = [
    ["Photo (stays here)", original, null],
    ...sent.map((part) => [part.name, part.bytes, part.counted]),
    ["Sent in all", total, null],
  ].map(([name, bytes, counted], index) => {
    const row = element("tr");
    row.append(
      element("th", String(name), { scope: "row" }),
      element("td", bytesInWords(Number(bytes))),
      element("td", counted === null ? "" : bytesInWords(Number(counted))),
      element("td", index === 0 ? "" : share(Number(bytes), original)),
    );
    return row;
  });
  find("#bytes tbody").replaceChildren(...rows);
  find("#bytes").hidden = false;
}

/** Hide all that belongs to an earlier question. */
export function clearResult() {
  for (const id of ["#result", "#first", "#second", "#zoom", "#bytes", "#error", "#region"]) find(id).hidden = true;
}

/** @param {string} message */
export function showError(message) {
  const box = find("#error");
  box.textContent = message;
  box.hidden = false;
  box.scrollIntoView({ block: "nearest" });
}

/**
 * @param {{thumbnail: Promise<Blob>, name: string, question: string, answer: string, words: string, isSure: boolean,
 *   bytes: number, original: number}} entry
 */
export function remember(entry) {
  const item = element("li");
  const picture = /** @type {HTMLImageElement} */ (element("img", "", { alt: entry.name }));
  void entry.thumbnail.then((blob) => {
    if (picture.isConnected) picture.src = URL.createObjectURL(blob);
  });
  const text = element("div");
  const cost = `${bytesInWords(entry.bytes)} bytes sent of ${bytesInWords(entry.original)}`;
  text.append(
    element("p", entry.question),
    element("p", `${entry.answer.trim() || "(no answer)"} `, { class: "known" }),
    element("p", entry.words, { class: entry.isSure ? "sure" : "unsure" }),
    element("p", cost, { class: "note" }),
  );
  item.append(picture, text);
  const list = find("#history ol");
  list.prepend(item);
  if (list.children.length > MOST_REMEMBERED) drop(list.children[MOST_REMEMBERED]);
  find("#history").hidden = false;
}

/** Forget the history of this visit. */
export function forgetAll() {
  for (const item of [...find("#history ol").children]) drop(item);
  find("#history").hidden = true;
}

/** @param {Element} item */
function drop(item) {
  const picture = item.querySelector("img");
  if (picture) URL.revokeObjectURL(picture.src);
  item.remove();
}
