/** @file From what came over the wire to an error of our tree; the only place where one becomes the other. */

import {
  BadImageError, BusyError, ExpiredError, NotAllowedError, ProtocolError, RefusedError, ServerUnavailableError,
  TimedOutError, UsageError,
} from "./errors.js";
import { parseProblem } from "./replies.js";
import { parseRetryAfter } from "./retry.js";
import { printable } from "./text.js";

/**
 * @typedef {{status: number, headers: Record<string, string>, body: Uint8Array, uplink_bytes: number, downlink_bytes: number}}
 *   Arrived header names are lower case
 * @typedef {{lost: "connect" | "timeout" | "network" | "protocol", detail: string, uplink_bytes: number,
 *   downlink_bytes: number}} Lost
 * @typedef {{error: import("./errors.js").EdgeError, retryable: boolean, retryAfterS: number | null}} Failure
 */

/** @type {Record<string, typeof import("./errors.js").EdgeError>} */
const BY_CODE = {
  malformed_request: UsageError,
  unauthenticated: NotAllowedError,
  forbidden: NotAllowedError,
  headers_timeout: TimedOutError,
  body_timeout: TimedOutError,
  inference_expired: ExpiredError,
  image_expired: ExpiredError,
  body_too_large: BadImageError,
  image_too_large: BadImageError,
  image_shape_refused: BadImageError,
  unsupported_media_type: BadImageError,
  unreadable_image: BadImageError,
  unoriented_image: BadImageError,
  patch_size_mismatch: BadImageError,
  invalid_request: UsageError,
  idempotency_in_progress: BusyError,
  rate_limited: BusyError,
  busy: BusyError,
  not_ready: BusyError,
  engine_failed: BusyError,
  deadline_exceeded: TimedOutError,
  internal_error: ServerUnavailableError,
};
/** @type {Record<number, typeof import("./errors.js").EdgeError>} */
const BY_STATUS = {
  401: NotAllowedError, 403: NotAllowedError, 408: TimedOutError, 413: BadImageError, 429: BusyError, 503: BusyError,
  504: TimedOutError,
};
const MAX_SHOWN_CHARS = 1000;

/** @param {Arrived | Lost} outcome @param {number} nowMs since 1970 @returns {Failure | null} null for a success */
export function failureOf(outcome, nowMs) {
  if ("lost" in outcome) return ofLost(outcome);
  const { status } = outcome;
  if (status >= 200 && status < 300) return null;
  const retryAfterS = parseRetryAfter(outcome.headers["retry-after"], nowMs);
  const problem = parseProblem(outcome.body);
  if (!problem) {
    const Kind = BY_STATUS[status] ?? (status >= 500 ? ServerUnavailableError : ProtocolError);
    const message = `HTTP ${status} without a problem document; is this a Second Glance server?`;
    const error = new Kind(message, { retry_after_s: retryAfterS, status });
    return { error, retryable: status === 408 || status === 429 || status >= 500, retryAfterS };
  }
  const Kind = Object.hasOwn(BY_CODE, problem.code) ? BY_CODE[problem.code] : RefusedError;
  const error = new Kind(`${shown(problem.title)}: ${shown(problem.detail)}`, {
    code: shown(problem.code), request_id: shown(problem.request_id), retry_after_s: retryAfterS, status,
  });
  return { error, retryable: problem.retryable, retryAfterS };
}

/** @param {Lost} outcome @returns {Failure} */
function ofLost({ lost, detail: said }) {
  const detail = shown(said);
  if (lost === "timeout") return { error: new TimedOutError(`no answer in time: ${detail}`), retryable: false, retryAfterS: null };
  if (lost === "protocol") return { error: new ProtocolError(detail), retryable: false, retryAfterS: null };
  const what = lost === "connect" ? "cannot connect" : "the connection broke";
  return { error: new ServerUnavailableError(`${what}: ${detail}`), retryable: true, retryAfterS: null };
}

/** @param {string} text */
const shown = (text) => printable(text, MAX_SHOWN_CHARS);
