/** @file The page: connects what people do with the parts that do it. */

import { Asking, whyDegraded } from "./asking.js";
import { CameraError, hasCamera, takePhoto } from "./camera.js";
import { UnreadableError, open, pictureIn, thumbnailOf } from "./photo.js";
import { Bar } from "./progress.js";
import { clearResult, find, forgetAll, remember, showAnswer, showBytes, showError, showRegion, showRegionSent } from "./show.js";
import { bytesInWords, verdict } from "./words.js";

const KEY = "second-glance-key";

/** @type {import("./photo.js").Photo | null} */
let photo = null;
/** @type {AbortController | null} */
let running = null;

const asking = new Asking(serverUrl());
const bar = new Bar(find("#bar"));
const image = /** @type {HTMLImageElement} */ (find("#photo"));
const field = (/** @type {string} */ id) => /** @type {HTMLInputElement} */ (find(`#${id}`));

/** The server's address: what the page's head says, else the server that shows this page at `/app/`. */
function serverUrl() {
  const said = /** @type {HTMLMetaElement} */ (find('meta[name="second-glance-server"]')).content;
  return said || new URL("..", document.baseURI).href.replace(/\/$/, "");
}

/** @param {Blob | null | undefined} blob @param {string} [name] */
async function choose(blob, name) {
  if (!blob) return;
  running?.abort();
  clearResult();
  try {
    photo = await open(blob, name ?? (blob instanceof File ? blob.name : "photo"), image);
  } catch (error) {
    if (!(error instanceof UnreadableError)) throw error;
    showError(error.message);
    return;
  }
  find("#frame").hidden = false;
  const size = `${photo.width} × ${photo.height} pixels, ${bytesInWords(blob.size)} bytes`;
  find("#caption").textContent = `${photo.name}: ${size}`;
  find("#hint").textContent = "Another photo: drop it, paste it, or:";
  field("question").focus();
}

async function take() {
  if (!hasCamera()) {
    field("capture").click(); // phones open their camera; on plain http there is no other way
    return;
  }
  try {
    const blob = await takePhoto(/** @type {HTMLDialogElement} */ (find("#camera")));
    await choose(blob, "photo from the camera");
  } catch (error) {
    if (!(error instanceof CameraError)) throw error;
    clearResult();
    showError(error.message);
  }
}

/** @param {string} words */
function say(words) {
  find("#doing").textContent = words;
}

/** @param {boolean} isBusy */
function setBusy(isBusy) {
  find("#work").hidden = !isBusy;
  find("#cancel").hidden = !isBusy;
  /** @type {HTMLButtonElement} */ (find("#ask")).disabled = isBusy;
  find("main").setAttribute("aria-busy", String(isBusy));
  if (!isBusy) bar.end();
}

async function ask() {
  clearResult();
  if (!photo) {
    showError("Choose a photo first.");
    find("#choose").focus();
    return;
  }
  const asked = photo;
  const question = field("question").value.trim();
  running = new AbortController();
  setBusy(true);
  say("Making the small copy");
  try {
    const outcome = await asking.ask(asked.blob, question, {
      mode: field("mode").value,
      rounds: field("rounds").valueAsNumber || 1,
      threshold: field("threshold").value === "" ? null : Number(field("threshold").value),
      key: field("key").value,
      signal: running.signal,
      on: events,
    });
    finish(asked, question, outcome);
  } catch (error) {
    fail(error);
  } finally {
    running = null;
    setBusy(false);
  }
}

/** What is shown while a question is on its way. @type {import("./asking.js").Events} */
const events = {
  sending(stage, bytes) {
    bar.begin(bytes);
    say(`Sending ${bytesInWords(bytes)} bytes: ${stage === 1 ? "the small copy" : "the region, in more detail"}`);
  },
  waiting(seconds) {
    bar.begin(0);
    say(`The server is busy or away: trying again in ${Math.ceil(seconds)} s`);
  },
  answered(bytes, elapsedMs) {
    bar.learn(bytes, elapsedMs);
  },
  first(first, roi) {
    if (roi) {
      const isWanted = field("mode").value === "always";
      const words = isWanted ? "The server looks at one region closer." : "Not sure: the server asks to see one region closer.";
      showAnswer("first", first.answer, words, isWanted);
      showRegion(roi.box);
      say("Cutting the region out of your photo");
    }
  },
};

/**
 * @param {import("./photo.js").Photo} asked
 * @param {string} question
 * @param {import("./asking.js").Outcome} outcome
 */
function finish(asked, question, { reply, domain, sent, region }) {
  let words = verdict(reply, domain);
  const isSure = !reply.doubtful && !reply.degraded;
  if (reply.degraded) words = `Not sure: the second look failed (${whyDegraded(reply.degraded)}). This is the first answer.`;
  showAnswer(reply.stage === 2 ? "second" : "first", reply.answer, words, isSure);
  if (reply.stage === 2) find("#first").classList.add("replaced");
  if (reply.roi) showRegion(reply.roi.box);
  if (region) showRegionSent(region);
  showBytes(sent, asked.blob.size);
  const bytes = sent.reduce((sum, part) => sum + part.bytes, 0);
  const { name, blob } = asked;
  remember({ thumbnail: thumbnailOf(asked), name, question, answer: reply.answer, words, isSure, bytes, original: blob.size });
}

/** @param {unknown} error */
function fail(error) {
  if (running?.signal.aborted) {
    clearResult();
    return;
  }
  showError(navigator.onLine ? asking.inWords(error) : "No network. The photo and the question stay here: ask again later.");
  if (asking.isAboutKey(error)) {
    /** @type {HTMLDetailsElement} */ (find("#options")).open = true;
    field("key").focus();
  }
}

function keepKey() {
  if (field("remember").checked && field("key").value) localStorage.setItem(KEY, field("key").value);
  else localStorage.removeItem(KEY);
}

function connect() {
  find("#choose").onclick = () => field("file").click();
  find("#take").onclick = () => void take();
  find("#forget").onclick = forgetAll;
  find("#cancel").onclick = () => running?.abort();
  for (const id of ["file", "capture"]) {
    field(id).onchange = async () => {
      await choose(field(id).files?.[0]);
      field(id).value = ""; // the same file may be chosen again
    };
  }
  find("#form").onsubmit = (event) => {
    event.preventDefault();
    void ask();
  };
  for (const id of ["key", "remember"]) field(id).onchange = keepKey;
  const kept = localStorage.getItem(KEY);
  if (kept) {
    field("key").value = kept;
    field("remember").checked = true;
  }
  document.onpaste = (event) => {
    const picture = pictureIn(event.clipboardData);
    if (!picture) return;
    event.preventDefault();
    void choose(picture);
  };
  document.ondragover = (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  };
  document.ondragleave = (event) => {
    if (!event.relatedTarget) document.body.classList.remove("dropping");
  };
  document.ondrop = (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    void choose(pictureIn(event.dataTransfer));
  };
  navigator.serviceWorker?.register("sw.js").catch(() => {}); // without it the page needs a network to open
}

connect();
