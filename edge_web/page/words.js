/** @file What the page says: verdicts, failures and bytes in words. */

/** As `secondglance_protocol.reasons` has them. @type {Record<string, string>} */
export const REASONS = {
  answers_only: "this model cannot say where to look",
  original_seen: "the model has seen every pixel of the picture",
  whole_image: "the model would have to see nearly the whole picture",
  no_finer: "the region has no finer detail than the model has seen",
  not_sendable: "the region has a shape that the server does not take",
  off_domain: "the model does not know this kind of question",
  empty_answer: "the model has said nothing",
};

/** @param {number} bytes */
export const bytesInWords = (bytes) => bytes.toLocaleString("en");

/** @param {number} part @param {number} whole */
export function share(part, whole) {
  if (!whole) return "";
  const percent = (100 * part) / whole;
  return `${percent < 0.1 ? percent.toFixed(3) : percent < 10 ? percent.toFixed(1) : Math.round(percent)} %`;
}

/**
 * Say whether an answer can be relied on.
 *
 * @param {{answer: string, doubtful: boolean, offDomain: boolean, reason: string | null}} final
 * @param {string | null} domain what the model can answer, in words
 */
export function verdict(final, domain) {
  if (!final.answer.trim()) return "Not sure: the model gave no answer.";
  if (!final.doubtful) return "Sure.";
  if (final.offDomain) {
    const known = domain ? ` It answers questions about ${domain.replace(/\.$/, "")}.` : "";
    return `Not sure: the model does not know this kind of question.${known}`;
  }
  if (final.reason) return `Not sure, and no second look: ${REASONS[final.reason] ?? final.reason}.`;
  return "Not sure: the answer may be wrong.";
}
