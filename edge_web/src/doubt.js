/** @file Whether an answer can be relied on, and in words why not. Older servers do not say: their gate does. */

import { isBlank } from "./text.js";

/** Why a reply has no second stage, or no answer: the names on the wire in words. @type {Record<string, string>} */
export const REASONS = {
  answers_only: "this model cannot say where to look",
  original_seen: "the model has seen every pixel of the picture",
  whole_image: "the model would have to see nearly the whole picture",
  no_finer: "the region has no finer detail than the model has seen",
  not_sendable: "the region has a shape that the server does not take",
  off_domain: "the model does not know this kind of question",
  empty_answer: "the model has said nothing",
};
const NO_ANSWER = "the model gave no answer: it ended without a word, and its uncertainty says nothing";

/** @param {import("./replies.js").InferenceResponse} final @returns {boolean} whether it should not be relied on */
export function isDoubtful(final) {
  return final.doubtful ?? (isBlank(final.answer) || final.confidence.value > final.confidence.threshold);
}

/** @param {import("./replies.js").InferenceResponse} final @returns {string | null} what to tell a person of a doubtful answer */
export function noteOfDoubt(final) {
  if (!isDoubtful(final)) return null;
  let why = "the answer may be wrong";
  if (isBlank(final.answer)) why = NO_ANSWER;
  else if (final.off_domain) why = REASONS.off_domain;
  else if (final.reason !== null) {
    why = `no second look: ${Object.hasOwn(REASONS, final.reason) ? REASONS[final.reason] : final.reason}`;
  }
  return `(not sure) ${why}`;
}
