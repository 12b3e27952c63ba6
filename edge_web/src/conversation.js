/**
 * @file One question, both stages, without any I/O: what to send, what to make of the reply, when to try again.
 *
 * `Conversation.run` is a generator of steps; a driver performs them. It decides as the Python edge does, but for one
 * thing: it measures no link, so encodings do not follow one and no region is declined as late beforehand.
 */

import { noteOfDoubt } from "./doubt.js";
import { encode, recipeOf } from "./encoding.js";
import {
  BadImageError, EdgeError, ExpiredError, ProtocolError, TimedOutError, UplinkBudgetError, UsageError,
} from "./errors.js";
import { EVENT_STREAM } from "./events.js";
import { failureOf } from "./failures.js";
import { bounded, fit, scaled } from "./fit.js";
import { Ledger } from "./ledger.js";
import { parseInference, parseModel } from "./replies.js";
import { Reply, sameAs } from "./reply.js";
import { waitBefore } from "./retry.js";
import { hex, sha256 } from "./sha256.js";
import { firstRequest, headerRoom, modelRequest, mostRounds, patchRequest } from "./wire.js";

/**
 * @typedef {import("./wire.js").Send} Send
 * @typedef {import("./wire.js").Encoded} Encoded
 * @typedef {import("./replies.js").InferenceResponse} InferenceResponse
 * @typedef {import("./replies.js").ModelResponse} ModelResponse
 * @typedef {import("./reply.js").Look} Look
 * @typedef {{kind: "pause", seconds: number, reason: string}} Pause before a retry
 * @typedef {{kind: "compute", what: string, work: () => Promise<any>}} Compute
 * @typedef {{kind: "answered", reply: InferenceResponse}} Answered a stage has answered
 * @typedef {Send | Pause | Compute | Answered} Step
 * @typedef {import("./failures.js").Arrived} Arrived
 *
 * @typedef {object} Original a picture, upright; `draw` gives a region of it (null: all) at a size, to be written
 * @property {number} width
 * @property {number} height
 * @property {number | null} encoded_bytes
 * @property {string[]} notes
 * @property {() => Promise<string | null>} contentKey the same for the same file; null where there is no file
 * @property {(pixels: import("./replies.js").PixelBox | null, size: {width: number, height: number}) =>
 *   Promise<{width: number, height: number, write: import("./encoding.js").Write, close: () => void}>} draw
 * @property {() => void} close
 *
 * @typedef {object} Surroundings
 * @property {import("./known.js").KnownServer} known
 * @property {ReturnType<typeof import("./settings.js").settingsOf>} settings
 * @property {() => number} clock seconds
 * @property {() => number} draw [0, 1)
 * @property {() => number} nowMs since 1970
 * @property {(bytes: number) => string} randomHex
 * @property {boolean} [streams] whether answers are asked for as streams
 */

/** @template T @typedef {Generator<Step, T, any>} Steps */

const TRACERESPONSE = /^[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}$/; // the ids under which a server worked
const FURTHER_QUALITY = 50; // of a further region, most of which show nothing that matters
const LENGTH_DIGITS = 7; // of a Content-Length, where the body is not known yet; without one it is a digit
/** @type {Encoded} */
const NO_PICTURE = { data: new Uint8Array(), media_type: "image/jpeg", width: 1, height: 1 };

/** Asks one question about one picture. Use once. */
export class Conversation {
  #open;
  #question;
  #terms;
  #around;
  #ledger;
  #traceId;
  #rounds = 1;
  /** @type {number | null} */
  #deadline;

  /**
   * @param {() => Promise<Original>} open
   * @param {string} question
   * @param {import("./wire.js").Terms} terms
   * @param {Surroundings} around
   */
  constructor(open, question, terms, around) {
    this.#open = open;
    this.#question = question;
    this.#terms = terms;
    this.#around = around;
    this.#ledger = new Ledger(terms.max_uplink_bytes ?? null);
    this.#traceId = around.settings.trace ? around.randomHex(16) : "";
    this.#deadline = terms.timeout_s == null ? null : around.clock() + terms.timeout_s;
  }

  /** Throws EdgeError; once stage one has answered, only if `strict`. @returns {Steps<Reply>} */
  *run() {
    /** @type {Original} */
    const original = yield* this.#timed("setup", this.#compute(this.#open, "opening the picture"));
    try {
      const model = yield* this.fetchModel();
      this.#rounds = mostRounds(this.#terms, model);
      const first = yield* this.#timed("stage1", this.#firstStage(original, model));
      const [looks, degraded] = yield* this.#secondOpinion(original, first, model);
      const receipt = this.#ledger.receipt(original.encoded_bytes);
      const reply = new Reply(first, looks, receipt, degraded, original.notes, this.#traceId);
      const doubt = noteOfDoubt(reply.final);
      if (doubt !== null) reply.notes = [...reply.notes, doubt];
      return reply;
    } finally {
      original.close();
    }
  }

  /** What the server takes; asked once for each client. @returns {Steps<ModelResponse>} */
  *fetchModel() {
    const { known } = this.#around;
    if (known.model === null) {
      const arrived = yield* this.#timed("setup", this.#call(modelRequest(this.#deadline)));
      known.model = parseModel(arrived.body);
    }
    return known.model;
  }

  /** @template T @param {import("./reply.js").StageName} stage @param {Steps<T>} steps @returns {Steps<T>} */
  *#timed(stage, steps, look = 1) {
    const started = this.#around.clock();
    try {
      return yield* steps;
    } finally {
      this.#ledger.addTime(stage, look, this.#around.clock() - started);
    }
  }

  /** @template T @param {() => Promise<T>} work @param {string} what @returns {Steps<T>} */
  *#compute(work, what) {
    return yield { kind: "compute", what, work };
  }

  /** @param {Original} original @param {ModelResponse} model @returns {Steps<InferenceResponse>} */
  *#firstStage(original, model) {
    /** @type {string | null} */
    const key = yield* this.#compute(() => original.contentKey(), "naming the picture");
    const arrived = yield* this.#askForRounds(original, key, model);
    const first = parseInference(arrived.body, 1, original);
    this.#around.known.remember(key, first.image_id);
    this.#traceId ||= TRACERESPONSE.exec(arrived.headers.traceresponse ?? "")?.[1] ?? "";
    yield { kind: "answered", reply: first };
    return first;
  }

  /** Ask for as many looks as the server knows; for one if it turns out to know no more. @param {Original} original
   * @param {string | null} key @param {ModelResponse} model @returns {Steps<Arrived>} */
  *#askForRounds(original, key, model) {
    for (;;) {
      try {
        return (yield* this.#askAboutHeld(original, key, model)) ?? (yield* this.#askWithImage(original, model));
      } catch (error) {
        if (!(error instanceof UsageError) || error.code !== "invalid_request" || this.#rounds === 1) throw error;
        this.#around.known.model = null; // an older server has taken the place of the one that was asked what it takes
        this.#rounds = 1;
      }
    }
  }

  /** Null if the server no longer has it. @param {Original} original @param {string | null} key @param {ModelResponse} model
   * @returns {Steps<Arrived | null>} */
  *#askAboutHeld(original, key, model) {
    const { known } = this.#around;
    const imageId = known.imageId(key);
    if (imageId === null) return null;
    try {
      return yield* this.#call(this.#firstRequest(original, imageId, model));
    } catch (error) {
      if (!(error instanceof ExpiredError)) throw error;
      known.forget(key);
      return null;
    }
  }

  /** @param {Original} original @param {ModelResponse} model @returns {Steps<Arrived>} */
  *#askWithImage(original, model) {
    const { settings, known } = this.#around;
    const bare = this.#firstRequest(original, NO_PICTURE, model);
    const recipe = recipeOf(this.#named(model)?.image, settings, settings.image_quality);
    const limits = /** @type {any} */ (model.limits);
    const budget = scaled(bounded(model.image), recipe.scale, limits.min_side_pixels);
    const picture = yield* this.#encode({
      original,
      pixels: null,
      size: fit(original.width, original.height, budget, limits),
      recipe,
      accepted: model.image.formats,
      maxBytes: Math.min(model.image.max_bytes, model.limits.max_image_bytes - bare.body.length),
      bare,
      what: "picture",
    });
    try {
      return yield* this.#call(this.#firstRequest(original, picture, model));
    } catch (error) {
      if (error instanceof BadImageError) known.model = null; // its budget was obeyed and refused: another model now?
      throw error;
    }
  }

  /** The looks at regions that the server asked for, and why there are no more if that is a failure.
   * @param {Original} original @param {InferenceResponse} first @param {ModelResponse} model
   * @returns {Steps<[Look[], string | null]>} */
  *#secondOpinion(original, first, model) {
    /** @type {Look[]} */
    const looks = [];
    const sent = new Set(); // SHA-256 of the patches
    for (let latest = first; latest.status === "needs_patch" && looks.length < this.#rounds; ) {
      try {
        const look = yield* this.#timed("stage2", this.#look(original, latest, model, looks, sent), looks.length + 1);
        if (look === null) break;
        looks.push(look);
        latest = look.reply;
      } catch (error) {
        if (looks.length && error instanceof UplinkBudgetError) break; // the answer that there is is what it pays for
        if (this.#terms.strict || !(error instanceof EdgeError)) throw error;
        return [looks, error.message];
      }
    }
    return [looks, null];
  }

  /** Send the region that a reply asks for; null if its bytes were sent before and show nothing new.
   * @param {Original} original @param {InferenceResponse} latest @param {ModelResponse} model @param {Look[]} looks
   * @param {Set<string>} sent @returns {Steps<Look | null>} */
  *#look(original, { roi, patch: offer }, model, looks, sent) {
    if (roi === null || offer === null) {
      throw new ProtocolError("the server wants a patch but names no box in the picture, or no address");
    }
    const { pixels } = roi;
    const { settings } = this.#around;
    const look = looks.length + 1;
    const isSharper = look > 1 && sameAs(roi) === sameAs(looks[looks.length - 1].roi);
    const recipe = recipeOf(isSharper ? null : this.#named(model)?.patch, settings, settings.patch_quality);
    const isFurther = look > 1 && !isSharper && settings.may_follow_recipes;
    if (isFurther) recipe.quality = Math.min(recipe.quality, FURTHER_QUALITY);
    const budget = scaled(bounded(offer), recipe.scale);
    const patch = yield* this.#encode({
      original,
      pixels,
      size: fit(pixels.right - pixels.left, pixels.bottom - pixels.top, budget),
      recipe,
      accepted: offer.formats,
      maxBytes: offer.max_bytes,
      bare: patchRequest(offer.url, NO_PICTURE, this.#deadline, look),
      what: "patch",
    });
    const digest = hex(sha256(patch.data));
    if (sent.has(digest)) return null;
    sent.add(digest);
    const arrived = yield* this.#call(patchRequest(offer.url, patch, this.#deadline, look));
    const reply = parseInference(arrived.body, 2, original);
    if (reply.status !== "answered" && look === this.#rounds) {
      throw new ProtocolError("the server took the patch but did not answer");
    }
    yield { kind: "answered", reply };
    return { roi, reply };
  }

  /** The encodings that the server names, if they may be followed. @param {ModelResponse} model */
  #named(model) {
    return this.#around.settings.may_follow_recipes ? model.recipes : null;
  }

  /** @param {Original} original @param {Encoded | string} picture @param {ModelResponse} model */
  #firstRequest(original, picture, model) {
    const how = { deadline: this.#deadline, randomHex: this.#around.randomHex, headerRoom: headerRoom(model), rounds: this.#rounds };
    return firstRequest(this.#question, this.#terms, original, picture, how);
  }

  /**
   * Encode within the server's limit and what the caller's budget leaves beside `bare`.
   *
   * @param {{original: Original, pixels: import("./replies.js").PixelBox | null, size: {width: number, height: number},
   *   recipe: {format: string, quality: number, min_quality: number}, accepted: string[], maxBytes: number, bare: Send, what: string}} task
   * @returns {Steps<Encoded>}
   */
  *#encode({ original, pixels, size, recipe, accepted, maxBytes, bare, what }) {
    const room = this.#ledger.roomIn(bare);
    const allowed = room === null ? maxBytes : Math.min(maxBytes, room - LENGTH_DIGITS);
    const work = async () => {
      const drawn = await original.draw(pixels, size);
      try {
        return await encode(drawn, recipe, accepted, allowed);
      } finally {
        drawn.close();
      }
    };
    const encoded = yield* this.#compute(work, `preparing the ${what}`);
    if (encoded.data.length > maxBytes) {
      throw new BadImageError(`the ${what} does not fit the server's limit of ${maxBytes} bytes at any quality`);
    }
    return encoded; // `#call` refuses what the budget does not carry
  }

  /** Send until it succeeds or trying again makes no sense. @param {Send} bare @returns {Steps<Arrived>} */
  *#call(bare) {
    const { randomHex, nowMs, settings, streams } = this.#around;
    const streamed = streams && bare.stage !== "setup" && { Accept: EVENT_STREAM };
    const traced = settings.trace && { traceparent: `00-${this.#traceId}-${randomHex(8)}-01` };
    const request = { ...bare, headers: { ...bare.headers, ...streamed, ...traced } }; // once: a retry repeats the exact bytes
    for (let retried = 0; ; retried++) {
      this.#ledger.check(request);
      if (this.#isLate()) throw this.#tooLate();
      /** @type {Arrived | import("./failures.js").Lost} */
      const outcome = yield request;
      this.#ledger.add(request, outcome, retried > 0);
      const failure = failureOf(outcome, nowMs());
      if (failure === null) return /** @type {Arrived} */ (outcome);
      const seconds = this.#waitS(failure, retried, request);
      if (seconds === null) throw this.#isLate() ? this.#tooLate() : failure.error; // whatever broke, it was patience
      yield { kind: "pause", seconds, reason: failure.error.message };
    }
  }

  #tooLate() {
    return new TimedOutError(`no answer within ${this.#terms.timeout_s} s`);
  }

  #isLate(by = 0) {
    return this.#deadline !== null && this.#around.clock() + by >= this.#deadline;
  }

  /** Null if there is no next attempt. @param {import("./failures.js").Failure} failure @param {number} retried @param {Send} request */
  #waitS(failure, retried, request) {
    if (!failure.retryable || !this.#ledger.canSend(request)) return null;
    const seconds = waitBefore(this.#around.settings, retried, failure.retryAfterS, this.#around.draw);
    return seconds === null || this.#isLate(seconds) ? null : seconds;
  }
}
