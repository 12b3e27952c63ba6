/** @file What `ask` returns, by the names of the Python edge: the answer, how sure it is, where the model looked, its cost. */

import { isDoubtful } from "./doubt.js";
import { isBlank } from "./text.js";

/**
 * @typedef {import("./replies.js").InferenceResponse} InferenceResponse
 * @typedef {{uplink_bytes: number, downlink_bytes: number, elapsed_ms: number, requests: number, retries: number}} StageReceipt
 * @typedef {"setup" | "stage1" | "stage2"} StageName
 * @typedef {{roi: import("./replies.js").Roi, reply: InferenceResponse}} Look a region that was sent, and the reply to it
 */

/** Return what is equal for equal parts of replies. @param {unknown} part */
export const sameAs = (part) => JSON.stringify(part);

/** @returns {StageReceipt} */
export const nothingSpent = () => ({ uplink_bytes: 0, downlink_bytes: 0, elapsed_ms: 0, requests: 0, retries: 0 });

/** What a conversation cost. Bytes are those of bodies: `layer` says so, for no page can count heads. */
export class Receipt {
  layer = "body";

  /** @param {Record<string, StageReceipt>} spent by stage; `stage23` is the third look at a region @param {number | null} originalBytes */
  constructor(spent, originalBytes) {
    this.setup = spent.setup ?? nothingSpent();
    this.stage1 = spent.stage1 ?? nothingSpent();
    this.stage2 = spent.stage2 ?? null;
    this.further_looks = [2, 3, 4].map((look) => spent[`stage2${look}`]).filter((each) => each?.requests);
    this.original_bytes = originalBytes;
  }

  /** The stages that took place, setup first; stage two once for each look. */
  get stages() {
    return [this.setup, this.stage1, ...(this.stage2 ? [this.stage2] : []), ...this.further_looks];
  }

  get uplink_bytes() {
    return this.#sum("uplink_bytes");
  }

  get downlink_bytes() {
    return this.#sum("downlink_bytes");
  }

  get elapsed_ms() {
    return this.#sum("elapsed_ms");
  }

  get requests() {
    return this.#sum("requests");
  }

  get retries() {
    return this.#sum("retries");
  }

  /** @param {keyof StageReceipt} name */
  #sum(name) {
    return this.stages.reduce((sum, stage) => sum + stage[name], 0);
  }

  /** Totals and stages, ready for JSON. */
  to_dict() {
    const { uplink_bytes, downlink_bytes, requests, retries, setup, stage1, stage2, original_bytes, layer } = this;
    const elapsed_ms = Math.round(this.elapsed_ms * 1000) / 1000;
    const further = this.further_looks.length > 0 && { further_looks: this.further_looks };
    return { uplink_bytes, downlink_bytes, elapsed_ms, requests, retries, setup, stage1, stage2, original_bytes, layer, ...further };
  }
}

/**
 * The server's replies of both stages behind one face. `second` is the reply to the last region that was sent, `looks`
 * has all. `degraded` says why stage two, or a further look, gave no answer.
 */
export class Reply {
  /**
   * @param {InferenceResponse} first
   * @param {Look[]} looks
   * @param {Receipt} receipt
   * @param {string | null} degraded
   * @param {string[]} notes what a caller should know about picture and answer
   * @param {string} traceId
   */
  constructor(first, looks, receipt, degraded, notes, traceId) {
    this.first = first;
    this.looks = looks;
    this.second = looks.length ? looks[looks.length - 1].reply : null;
    this.receipt = receipt;
    this.degraded = degraded;
    this.notes = notes;
    this.trace_id = traceId;
  }

  /** The server's reply of the last stage that answered. */
  get final() {
    return this.second ?? this.first;
  }

  get answer() {
    return this.final.answer;
  }

  /** Whether the answer holds any text; where it holds none, `confidence` says nothing. */
  get is_answered() {
    return !isBlank(this.answer);
  }

  /** Whether the answer should not be relied on: too uncertain, empty, or not the model's domain. */
  get doubtful() {
    return isDoubtful(this.final);
  }

  /** Why a wanted second stage was not asked for, or `empty_answer`: a name. */
  get reason() {
    return this.final.reason;
  }

  /** Whether the model cannot answer this kind of question; null from a model that cannot tell. */
  get off_domain() {
    return this.final.off_domain;
  }

  get stage() {
    return this.final.stage;
  }

  get confidence() {
    return this.final.confidence;
  }

  /** Stage one's answer, also where stage two gave another. */
  get draft_answer() {
    return this.first.answer;
  }

  get draft_confidence() {
    return this.first.confidence;
  }

  /** The region that the server asked for, null where it asked for none; of several that of the answer. */
  get roi() {
    let { roi } = this.first;
    let [before, ...further] = this.looks.map((look) => ({ ...look, said: sameAs([look.reply.answer, look.reply.confidence]) }));
    for (const look of further) {
      if (look.said !== before.said) ({ roi } = look); // it made a surer answer: the server keeps the earlier one else
      before = look;
    }
    return roi;
  }

  get id() {
    return this.first.id;
  }

  get model() {
    return this.final.model;
  }

  get usage() {
    return this.final.usage;
  }

  get timing_ms() {
    return this.final.timing_ms;
  }

  /** The answer's tokens, if `include` has "tokens". */
  get tokens() {
    return this.final.tokens;
  }

  /** The map behind the region, if `include` has "relevance" and a region was looked for. */
  get relevance() {
    return this.first.relevance;
  }

  /** Everything as plain values, ready for JSON; null where there is nothing to say. */
  to_dict() {
    const { answer, stage, doubtful, reason, off_domain, degraded, notes, confidence, draft_answer, draft_confidence } = this;
    const { roi, id, trace_id, model, usage, timing_ms } = this;
    return {
      answer, stage, doubtful, reason, off_domain, degraded, notes, confidence, draft_answer, draft_confidence, roi, id,
      trace_id, model, usage, timing_ms, receipt: this.receipt.to_dict(),
      ...(this.looks.length > 1 && { looks: this.looks.map((look) => look.roi) }),
      ...(this.tokens && { tokens: this.tokens }), ...(this.relevance && { relevance: this.relevance }),
    };
  }

  toJSON() {
    return this.to_dict();
  }
}
