/** @file The requests of a conversation, as bytes to send. Knows the contract and not when to use it. */

import { BadImageError, ProtocolError, UsageError } from "./errors.js";
import { MAX_ORIGINAL_SIDE } from "./replies.js";
import { hex, sha256 } from "./sha256.js";
import { isWellFormed, lengthOf, quoted } from "./text.js";

/**
 * @typedef {object} Send one HTTP request; `deadline` is on the conversation's clock, in seconds
 * @property {"send"} kind
 * @property {"setup" | "stage1" | "stage2"} stage
 * @property {"GET" | "POST" | "PUT"} method
 * @property {string} path
 * @property {Record<string, string>} headers
 * @property {Uint8Array<ArrayBuffer>} body
 * @property {number | null} deadline
 * @property {number} look counts the regions that are sent in stage two, from 1
 *
 * @typedef {object} Terms how to ask, as in Python
 * @property {"auto" | "answer_only" | "always"} [mode]
 * @property {number | null} [threshold] in nats
 * @property {number | null} [timeout_s] for both stages together
 * @property {number | null} [max_uplink_bytes] for everything sent, a head taken as 512 bytes
 * @property {boolean} [strict] throw where stage two fails, instead of returning the draft answer
 * @property {number | null} [max_new_tokens]
 * @property {("tokens" | "relevance")[]} [include]
 * @property {number} [max_rounds] how many regions may be sent, one after the other, while the answer stays doubtful
 * @property {string | null} [idempotency_key] the same key, picture and terms: the first reply again
 *
 * @typedef {{data: Uint8Array<ArrayBuffer>, media_type: string, width: number, height: number}} Encoded
 */

// A path below the API, of plain segments: no other origin, no query, no `..` however it is written.
const PATCH_URL = /^\/v1(?:\/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+$/;
const MAX_PATCH_URL_CHARS = 512;
const MAX_QUESTION_BYTES = 4096;
const MAX_ROUNDS = 4;
const MODES = ["auto", "answer_only", "always"];
const MAX_QUESTION_HEADER_BYTES = 4096; // common proxies take lines of 8 KB
const MULTIPART_BYTES = 97; // that parts cost more at least; a header must escape what is not ASCII
export const QUESTION_HEADER = "X-Question";
const utf8 = new TextEncoder();
const EMPTY = new Uint8Array();

/** @param {number | null} deadline @returns {Send} */
export function modelRequest(deadline) {
  return { kind: "send", stage: "setup", method: "GET", path: "/v1/model", headers: {}, body: EMPTY, deadline, look: 1 };
}

/** Return how many bytes the question's header may have; 0 where a server takes multipart only. @param {import("./replies.js").ModelResponse} model */
export const headerRoom = ({ raw_image, limits }) =>
  raw_image ? Math.min(MAX_QUESTION_HEADER_BYTES, Math.floor(limits.max_header_bytes / 2)) : 0;

/**
 * Return how many regions may be sent: as many as wanted, if this edge and the server know so many.
 *
 * @param {Terms} terms @param {import("./replies.js").ModelResponse} model
 */
export const mostRounds = ({ max_rounds = 1 }, model) => Math.min(max_rounds, model.max_rounds, MAX_ROUNDS);

/** Return the bytes that a request holds besides its usual head. @param {Send} send */
export const contentBytes = ({ headers, body }) => body.length + (headers[QUESTION_HEADER]?.length ?? 0);

/**
 * Return stage one's request. The picture is the body and the question a header if that has room and is shorter; else
 * it is multipart. Which one does not depend on the picture's bytes.
 *
 * @param {string} question @param {Terms} terms @param {{width: number, height: number}} size of the original
 * @param {Encoded | string} picture the small copy, or the server's name for it
 * @param {{deadline: number | null, randomHex: (bytes: number) => string, headerRoom: number, rounds: number}} how
 * @returns {Send}
 */
export function firstRequest(question, terms, size, picture, { deadline, randomHex, headerRoom: room, rounds }) {
  const image = typeof picture === "string" ? null : picture;
  const plain = documentOf(question, terms, size, typeof picture === "string" ? picture : null, rounds);
  const named = plain.replace(/[^ -~]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`);
  const isHeader = named.length <= Math.min(room, utf8.encode(plain).length + MULTIPART_BYTES);
  const contents = { request: utf8.encode(isHeader ? named : plain), ...(image && { image: image.data }) };
  const { type, body } = isHeader ? { type: image?.media_type, body: image?.data ?? EMPTY } : multipart(contents);
  const headers = {
    ...(isHeader && { [QUESTION_HEADER]: named }),
    ...(type && { "Content-Type": type }),
    "Idempotency-Key": idempotencyKey(terms, Object.values(contents), randomHex),
  };
  return { kind: "send", stage: "stage1", method: "POST", path: "/v1/inferences", headers, body, deadline, look: 1 };
}

/** @param {string} url @param {Encoded} patch @param {number | null} deadline @param {number} look @returns {Send} */
export function patchRequest(url, patch, deadline, look) {
  if (lengthOf(url) > MAX_PATCH_URL_CHARS || !PATCH_URL.test(url)) {
    const start = Array.from(url.slice(0, 160)).slice(0, 80).join("");
    throw new ProtocolError(`the server offers a patch address outside its own API: ${quoted(start)}`);
  }
  const headers = { "Content-Type": patch.media_type };
  return { kind: "send", stage: "stage2", method: "PUT", path: url, headers, body: patch.data, deadline, look };
}

/**
 * Return the body and its media type, as short as RFC 7578 allows. The boundary is the first number whose delimiter no
 * content holds, so that no picture can end a part.
 *
 * @param {Record<string, Uint8Array>} contents
 */
function multipart(contents) {
  let boundary = 0;
  while (Object.values(contents).some((content) => holds(content, utf8.encode(`--${boundary}`)))) boundary++;
  const pieces = Object.entries(contents).flatMap(([name, content]) => [
    utf8.encode(`--${boundary}\r\nContent-Disposition: form-data; name="${name}"\r\n\r\n`), content, utf8.encode("\r\n"),
  ]);
  return {
    type: `multipart/form-data; boundary=${boundary}`,
    body: joined([...pieces, utf8.encode(`--${boundary}--\r\n`)]),
  };
}

/** @param {Uint8Array[]} pieces */
export function joined(pieces) {
  const whole = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.length;
  }
  return whole;
}

/** @param {Uint8Array} content @param {Uint8Array} wanted */
function holds(content, wanted) {
  for (let at = content.indexOf(wanted[0]); at >= 0; at = content.indexOf(wanted[0], at + 1)) {
    if (wanted.every((byte, index) => content[at + index] === byte)) return true;
  }
  return false;
}

/** The caller's key made one of this very payload. @param {Terms} terms @param {Uint8Array[]} parts @param {(bytes: number) => string} randomHex */
function idempotencyKey(terms, parts, randomHex) {
  if (terms.idempotency_key == null) return randomHex(8);
  return hex(sha256(joined([utf8.encode(terms.idempotency_key), ...parts.map(sha256)])));
}

/** @param {string} question @param {Terms} terms @param {{width: number, height: number}} size @param {string | null} imageId @param {number} max_rounds */
function documentOf(question, terms, { width, height }, imageId, max_rounds) {
  if (Math.max(width, height) > MAX_ORIGINAL_SIDE) {
    throw new BadImageError(`the picture has ${width}x${height} pixels; a side has at most 1,000,000`);
  }
  checkTerms(question, terms, max_rounds);
  const { mode = "auto", threshold = null, max_new_tokens = null, include = [] } = terms;
  return JSON.stringify({
    question,
    image: { width, height },
    ...(imageId !== null && { image_id: imageId }),
    ...(mode !== "auto" && { mode }),
    ...(threshold !== null && { gate: { threshold } }),
    ...(max_new_tokens !== null && { max_new_tokens }),
    ...(include.length > 0 && { include }),
    ...(max_rounds > 1 && { max_rounds }),
  });
}

/** @param {string} question @param {Terms} terms @param {number} rounds */
function checkTerms(question, terms, rounds) {
  const need = (/** @type {boolean} */ isRight, /** @type {string} */ message) => {
    if (!isRight) throw new UsageError(message);
  };
  const bytes = utf8.encode(question).length;
  need(bytes > 0 && bytes <= MAX_QUESTION_BYTES, `question: it holds 1 to ${MAX_QUESTION_BYTES} bytes of UTF-8`);
  need(isWellFormed(question), "question: it holds half a character");
  need(!question.includes("\0"), "question: it holds no NUL characters");
  need(terms.mode === undefined || MODES.includes(terms.mode), `mode: it is one of ${MODES.join(", ")}`);
  need(terms.threshold == null || (terms.threshold >= 0 && terms.threshold < Infinity), "threshold: it is 0 or more");
  need(terms.max_new_tokens == null || (Number.isInteger(terms.max_new_tokens) && terms.max_new_tokens >= 1),
    "max_new_tokens: it is 1 or more");
  need(Number.isInteger(rounds) && rounds >= 1, "max_rounds: it is 1 or more");
  const include = terms.include ?? [];
  need(include.length <= 2 && include.every((each) => each === "tokens" || each === "relevance"),
    'include: it names "tokens" or "relevance"');
}
