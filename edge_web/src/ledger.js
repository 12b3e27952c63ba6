/** @file Keeps a conversation's receipt while it runs, and its uplink budget. */

import { UplinkBudgetError } from "./errors.js";
import { Receipt, nothingSpent } from "./reply.js";
import { contentBytes } from "./wire.js";

/** @typedef {import("./wire.js").Send} Send @typedef {import("./reply.js").StageName} StageName */

const HEAD_BYTES = 512; // of a request around its body, with a key: a guess, for no page can count heads

/** Return the bytes that a request takes on the wire with a usual head. @param {Send} request */
export const typicalSize = (request) => HEAD_BYTES + contentBytes(request);

/** @param {Send} request */
export function inWords(request) {
  if (request.stage === "setup") return "asking the server what it takes";
  const what = request.stage === "stage1" ? "question and picture" : "the region asked for";
  return `sending ${what} (${String(request.body.length).replace(/\B(?=(\d{3})+$)/g, ",")} bytes)`;
}

/** One conversation's spending. */
export class Ledger {
  /** By stage and look. @type {Record<string, import("./reply.js").StageReceipt>} */
  #spent = {};
  #spentBytes = 0;
  #most;

  /** @param {number | null} maxUplinkBytes null is no budget */
  constructor(maxUplinkBytes) {
    this.#most = maxUplinkBytes;
  }

  /** @param {StageName} stage @param {number} look @param {number} seconds */
  addTime(stage, look, seconds) {
    this.#of(stage, look).elapsed_ms += seconds * 1000;
  }

  /** @param {Send} request @param {import("./failures.js").Arrived | import("./failures.js").Lost} outcome @param {boolean} isRetry */
  add(request, outcome, isRetry) {
    const spent = this.#of(request.stage, request.look);
    spent.uplink_bytes += outcome.uplink_bytes;
    spent.downlink_bytes += outcome.downlink_bytes;
    spent.requests += 1;
    spent.retries += Number(isRetry);
    this.#spentBytes += Math.max(outcome.uplink_bytes, "lost" in outcome ? 0 : typicalSize(request));
  }

  /** Return how many bytes of body the budget still carries beside those of `request`; null without one. @param {Send} request */
  roomIn(request) {
    return this.#most === null ? null : this.#most - this.#spentBytes - typicalSize(request);
  }

  /** @param {Send} request */
  canSend(request) {
    return (this.roomIn(request) ?? 0) >= 0;
  }

  /** Throws UplinkBudgetError if a request exceeds the budget. @param {Send} request */
  check(request) {
    if (this.canSend(request)) return;
    const needed = this.#spentBytes + typicalSize(request);
    throw new UplinkBudgetError(`${inWords(request)} takes max_uplink_bytes=${needed} at the least; it is ${this.#most}`);
  }

  /** @param {number | null} originalBytes */
  receipt(originalBytes) {
    return new Receipt(this.#spent, originalBytes);
  }

  /** @param {StageName} stage @param {number} look */
  #of(stage, look) {
    return (this.#spent[stage + (look > 1 ? look : "")] ??= nothingSpent());
  }
}
