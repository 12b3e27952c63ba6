/**
 * @file The server's documents, typed and bounded where they enter: one hostile reply costs one answer, no more.
 *
 * Fields that a newer server adds are ignored. Numbers have to be numbers: the Python edge reads "5" as 5, this one refuses.
 */

import { ProtocolError } from "./errors.js";
import { isWellFormed, lengthOf } from "./text.js";

/**
 * @typedef {{x0: number, y0: number, x1: number, y1: number}} Box of the upright original, 0 to 1
 * @typedef {{left: number, top: number, right: number, bottom: number}} PixelBox half-open, in the upright original's pixels
 * @typedef {{box: Box, pixels: PixelBox}} Roi
 * @typedef {{max_width: number, max_height: number, max_pixels: number | null, max_bytes: number, formats: string[]}} ImageBudget
 * @typedef {ImageBudget & {url: string, expires_at: string}} PatchOffer
 * @typedef {{metric: string, aggregate: string, value: number, threshold: number, min_entropy: number, shannon: number,
 *   margin: number}} Confidence in nats; higher means less certain
 * @typedef {{received_bytes: number, prompt_tokens: number, cached_tokens: number, completion_tokens: number}} Usage
 * @typedef {{queue: number, decode_image: number, prefill: number, generate: number, localize: number}} TimingMs
 * @typedef {{text: string, min_entropy: number, shannon: number, margin: number}} TokenReport
 * @typedef {{text: string, min_entropy: number}} TokenEvent
 * @typedef {{weights: number[][], content: Box}} RelevanceReport
 * @typedef {{format: string, quality: number, scale: number}} EncodingRecipe `scale` is a share of the sides that the server takes
 *
 * @typedef {object} InferenceResponse
 * @property {string} id
 * @property {"answered" | "needs_patch"} status
 * @property {1 | 2} stage
 * @property {string} answer
 * @property {Confidence} confidence
 * @property {Roi | null} roi
 * @property {PatchOffer | null} patch
 * @property {string} image_id
 * @property {Usage} usage
 * @property {TimingMs} timing_ms
 * @property {string} model
 * @property {boolean | null} doubtful
 * @property {string | null} reason
 * @property {boolean | null} off_domain
 * @property {TokenReport[] | null} tokens
 * @property {RelevanceReport | null} relevance
 *
 * @typedef {object} ModelResponse
 * @property {number} protocol_version
 * @property {string} name
 * @property {string} family
 * @property {ImageBudget} image
 * @property {ImageBudget} patch
 * @property {{metric: string, aggregate: string, threshold: number, doubt_threshold: number | null}} gate
 * @property {Record<string, number>} limits
 * @property {string | null} answers_only
 * @property {string | null} domain what the model can answer, in words
 * @property {{image: EncodingRecipe | null, patch: EncodingRecipe | null} | null} recipes the encodings that were measured best
 * @property {number} max_rounds the most regions that a request may allow
 * @property {boolean} raw_image whether the picture may be the body and the question a header
 *
 * @typedef {{type: string, title: string, status: number, detail: string, code: string, request_id: string,
 *   retryable: boolean}} Problem
 *
 * @typedef {(value: unknown) => any} Reader returns the value as typed, or throws
 */

const PROTOCOL_VERSION = 1;
export const MAX_ORIGINAL_SIDE = 1_000_000;
const MAX_ID_CHARS = 128;
const MAX_COUNT = 2 ** 53;
const MAX_MS = 1e9; // eleven days
const MAX_NAME_CHARS = 256;
const MAX_ANSWER_CHARS = 256 * 1024;
const MAX_TOKENS = 16_384;
const MAX_MAP_CELLS = 512; // a side
const MAX_THICKENED_SIDE = 1024;

class Misfit extends Error {}

/** @param {boolean} isRight */
function need(isRight) {
  if (!isRight) throw new Misfit();
}

/** @type {(least?: number, most?: number) => Reader} */
const number = (least = -Infinity, most = Infinity) => (value) => {
  need(typeof value === "number" && value >= least && value <= most);
  return value;
};
/** @type {(least?: number, most?: number) => Reader} */
const whole = (least = 0, most = Infinity) => (value) => {
  need(Number.isInteger(value) && Number(value) >= least && Number(value) <= most);
  return value;
};
/** @type {(most?: number, pattern?: RegExp) => Reader} */
const text = (most = Infinity, pattern = /^/) => (value) => {
  need(typeof value === "string" && pattern.test(value) && isWellFormed(value) && (most === Infinity || lengthOf(value) <= most));
  return value;
};
/** @type {Reader} */
const flag = (value) => {
  need(typeof value === "boolean");
  return value;
};
/** @type {(...names: unknown[]) => Reader} */
const one = (...names) => (value) => {
  need(names.includes(value));
  return value;
};
/** @type {(reader: Reader) => Reader} */
const list = (reader) => (value) => {
  need(Array.isArray(value));
  return /** @type {unknown[]} */ (value).map(reader);
};
/** @type {(reader: Reader) => Reader} */
const orNull = (reader) => (value) => (value === null ? null : reader(value));
/** May be missing. @type {(reader: Reader, otherwise?: unknown) => Reader} */
const maybe = (reader, otherwise = null) => (value) => (value === undefined ? otherwise : reader(value));
/** @type {(readers: Record<string, Reader>, isWhole?: (value: any) => boolean) => Reader} */
const record = (readers, isWhole = () => true) => (value) => {
  need(typeof value === "object" && value !== null && !Array.isArray(value));
  const given = new Map(Object.entries(/** @type {object} */ (value)));
  const read = Object.fromEntries(Object.entries(readers).map(([name, reader]) => [name, reader(given.get(name))]));
  need(isWhole(read));
  return read;
};
/** @type {(reader: Reader) => Reader} */
const optional = (reader) => maybe(orNull(reader));

const uncertainty = number(0);
const unit = number(0, 1);
const finite = number();
const metric = one("min_entropy", "shannon", "margin");
const aggregate = one("max", "mean", "first", "sum");
const box = record({ x0: unit, y0: unit, x1: unit, y1: unit }, ({ x0, y0, x1, y1 }) => x0 < x1 && y0 < y1);
const pixelBox = record(
  { left: whole(), top: whole(), right: whole(), bottom: whole() },
  ({ left, top, right, bottom }) => left < right && top < bottom,
);
const budget = {
  max_width: whole(1),
  max_height: whole(1),
  max_pixels: optional(whole(1)),
  max_bytes: whole(1),
  formats: list(one("image/jpeg", "image/png", "image/webp")),
};
const moment = text(64, /^\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:?\d\d)$/i);
const statistics = { min_entropy: uncertainty, shannon: uncertainty, margin: uncertainty };

const INFERENCE = record({
  id: text(),
  status: one("answered", "needs_patch"),
  stage: one(1, 2),
  answer: text(),
  confidence: record({ metric, aggregate, value: uncertainty, threshold: uncertainty, ...statistics }),
  roi: orNull(record({ box, pixels: pixelBox })),
  patch: orNull(record({ url: text(), ...budget, expires_at: moment })),
  image_id: text(),
  usage: record({ received_bytes: whole(), prompt_tokens: whole(), cached_tokens: whole(), completion_tokens: whole() }),
  timing_ms: record(
    Object.fromEntries(["queue", "decode_image", "prefill", "generate", "localize"].map((name) => [name, maybe(uncertainty, 0)])),
  ),
  model: text(),
  doubtful: optional(flag),
  reason: optional(text(64, /^[a-z0-9_]+$/)),
  off_domain: optional(flag),
  tokens: optional(list(record({ text: text(), ...statistics }))),
  relevance: optional(record({ weights: list(list(uncertainty)), content: box })),
});

const COUNTS = [
  "max_question_bytes", "max_new_tokens", "max_image_bytes", "max_patch_bytes", "max_image_pixels", "max_patch_pixels",
  "min_side_pixels", "max_side_pixels", "max_connections", "max_header_bytes", "min_body_bytes_per_s",
  "max_request_part_bytes", "max_queue", "max_sessions",
];
const TIMES = [
  "max_aspect_ratio", "header_timeout_s", "keep_alive_s", "write_timeout_s", "body_timeout_s", "body_grace_s",
  "inference_deadline_s", "session_ttl_s",
];
const recipe = record({ format: one("jpeg", "webp", "png"), quality: whole(1, 100), scale: maybe(number(0.1, 1), 1) });
const MODEL = record({
  protocol_version: whole(-Infinity),
  name: text(),
  family: text(),
  image: record(budget),
  patch: record(budget),
  gate: record({ metric, aggregate, threshold: uncertainty, doubt_threshold: optional(uncertainty) }),
  limits: record(
    Object.fromEntries([
      ...COUNTS.map((name) => /** @type {[string, Reader]} */ ([name, whole(-Infinity)])),
      ...TIMES.map((name) => /** @type {[string, Reader]} */ ([name, finite])),
    ]),
  ),
  answers_only: optional(text()),
  domain: optional(text(1024)),
  recipes: optional(record({ image: optional(recipe), patch: optional(recipe) })),
  raw_image: maybe(flag, false),
  max_rounds: maybe(whole(1), 1),
});
const PROBLEM = record({
  type: text(), title: text(), status: whole(400, 599), detail: text(), code: text(), request_id: text(), retryable: flag,
});

const TOKEN = record({ text: text(), min_entropy: uncertainty });

/** @param {Uint8Array} body @returns {Problem | null} null for a body that is none */
export const parseProblem = (body) => readOrNone(PROBLEM, body);

/** @param {Uint8Array} body @returns {TokenEvent | null} null for a body that is none */
export const parseToken = (body) => readOrNone(TOKEN, body);

/** Return what the server takes, if this edge speaks its protocol. @param {Uint8Array} body @returns {ModelResponse} */
export function parseModel(body) {
  /** @type {ModelResponse} */
  const model = read(MODEL, "ModelResponse", body);
  if (model.protocol_version !== PROTOCOL_VERSION) {
    const spoken = `the server speaks protocol ${model.protocol_version}, this edge ${PROTOCOL_VERSION}`;
    throw new ProtocolError(`${spoken}; update the older one`);
  }
  check([model.name, model.family].every((name) => isName(name, MAX_NAME_CHARS)), "the model's name");
  checkBudget(model.image);
  checkBudget(model.patch);
  for (const name of Object.keys(model.limits)) check(model.limits[name] >= 0 && model.limits[name] <= MAX_COUNT, `limits.${name}`);
  let most = Math.min(model.image.max_width, model.image.max_height, MAX_THICKENED_SIDE);
  if (model.image.max_pixels !== null) most = Math.min(most, Math.floor(Math.floor(Math.sqrt(model.image.max_pixels)) / 10));
  check(model.limits.min_side_pixels >= 1 && model.limits.min_side_pixels <= most, "limits.min_side_pixels");
  check(model.limits.max_aspect_ratio >= 1, "limits.max_aspect_ratio");
  return model;
}

/**
 * Return the reply of a stage. A region outside of the picture is left out: the answer that comes with it may be right.
 *
 * @param {Uint8Array} body @param {1 | 2} stage @param {{width: number, height: number}} size of the original
 * @returns {InferenceResponse}
 */
export function parseInference(body, stage, size) {
  /** @type {InferenceResponse} */
  const reply = read(INFERENCE, "InferenceResponse", body);
  check(reply.stage === stage, "stage");
  check([reply.id, reply.image_id].every((name) => isName(name, MAX_ID_CHARS)), "an id");
  check(lengthOf(reply.model) <= MAX_NAME_CHARS, "the model's name");
  check(lengthOf(reply.answer) <= MAX_ANSWER_CHARS, "the answer");
  check((reply.tokens?.length ?? 0) <= MAX_TOKENS, "tokens");
  check(Object.values(reply.usage).every((count) => count <= MAX_COUNT), "usage");
  check(Object.values(reply.timing_ms).every((spent) => spent <= MAX_MS), "timing_ms");
  if (reply.patch) checkBudget(reply.patch);
  if (reply.relevance) checkRelevance(reply.relevance);
  const pixels = reply.roi?.pixels;
  if (pixels && (pixels.right > size.width || pixels.bottom > size.height)) return { ...reply, roi: null };
  return reply;
}

/** @param {Reader} reader @param {Uint8Array} body */
function readOrNone(reader, body) {
  try {
    return reader(parsed(body));
  } catch (error) {
    if (error instanceof Misfit) return null;
    throw error;
  }
}

/** @param {Reader} reader @param {string} name @param {Uint8Array} body */
function read(reader, name, body) {
  const document = readOrNone(reader, body);
  if (document === null) throw new ProtocolError(`the reply is no ${name}; is this a Second Glance server?`);
  return document;
}

/** @param {Uint8Array} body @returns {unknown} */
function parsed(body) {
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(body));
  } catch {
    throw new Misfit();
  }
}

/** @param {boolean} isRight @param {string} what */
function check(isRight, what) {
  if (!isRight) throw new ProtocolError(`the server's reply makes no sense: ${what} is out of bounds`);
}

/** @param {string} name @param {number} most */
const isName = (name, most) => name.length > 0 && lengthOf(name) <= most;

/** @param {ImageBudget} given */
function checkBudget(given) {
  check(Math.max(given.max_width, given.max_height) <= MAX_ORIGINAL_SIDE, "the size that it takes");
  check(Math.max(given.max_bytes, given.max_pixels ?? 1) <= MAX_COUNT, "the size that it takes");
}

/** @param {RelevanceReport} relevance */
function checkRelevance({ weights, content }) {
  const [rows, columns] = [weights.length, weights[0]?.length ?? 0];
  check(Math.min(rows, columns) >= 1 && Math.max(rows, columns) <= MAX_MAP_CELLS, "the relevance map");
  check(weights.every((row) => row.length === columns), "the relevance map");
  const [width, height] = [(content.x1 - content.x0) * columns, (content.y1 - content.y0) * rows];
  check(Math.min(width, height) >= 0.01, "the relevance map's content"); // cells; less is nothing to show
}
