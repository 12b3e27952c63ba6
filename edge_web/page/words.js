/** @file What the page says: verdicts, failures and bytes in words. */

import { REASONS } from "./src/index.js";

/** @param {number} bytes */
export const bytesInWords = (bytes) => bytes.toLocaleString("en");

/** @param {number} part @param {number} whole */
export function share(part, whole) {
  if (!whole) return "";
  const percent = (100 * part) / whole;
  return `${percent < 0.1 ? percent.toFixed(3) : percent < 10 ? percent.toFixed(1) : Math.round(percent)}\u00a0%`;
}

/**
 * Say whether an answer can be relied on.
 *
 * @param {{answer: string, doubtful: boolean, off_domain: boolean | null, reason: string | null}} final
 * @param {string | null} domain what the model can answer, in words
 */
export function verdict(final, domain) {
  if (!final.answer.trim()) return "Not sure: the model gave no answer.";
  if (!final.doubtful) return "Sure.";
  if (final.off_domain) {
    const known = domain ? ` It answers questions about ${domain.replace(/\.$/, "")}.` : "";
    return `Not sure: the model does not know this kind of question.${known}`;
  }
  if (final.reason) return `Not sure, and no second look: ${REASONS[final.reason] ?? final.reason}.`;
  return "Not sure: the answer may be wrong.";
}
