/** @file The conversation vectors, which the Python edge takes as well: the same steps, the same ends. */

import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { test } from "node:test";

import { Conversation } from "../src/conversation.js";
import { BadImageError, EdgeError } from "../src/errors.js";
import { KnownServer } from "../src/known.js";
import { typicalSize } from "../src/ledger.js";
import { settingsOf } from "../src/settings.js";

const FOLDER = new URL("../../tests/vectors/", import.meta.url);
const NOW_MS = Date.UTC(2026, 0, 2, 3, 4, 5);
const utf8 = new TextEncoder();

for (const file of readdirSync(FOLDER).filter((name) => name.endsWith(".json"))) {
  const { exchanges, vectors } = JSON.parse(readFileSync(new URL(file, FOLDER), "utf8"));
  for (const vector of vectors) {
    test(`${file}: ${vector.name}`, async () => {
      const { steps, ends } = await play({ ...vector, exchanges: vector.exchanges.map((/** @type {number} */ at) => exchanges[at]) });
      assert.deepEqual(steps, vector.steps);
      assert.deepEqual(ends, vector.ends.map(withoutWords));
    });
  }
}

/** What is wrong with arguments, each edge says in words of its own. @param {any} end */
function withoutWords(end) {
  const isUsage = end.error?.kind === "UsageError" && end.error.code === null;
  return isUsage ? { error: { ...end.error, message: "" } } : end;
}

/** Play a scenario as tests/vectors/playing.py does. @param {any} scenario */
async function play(scenario) {
  const known = new KnownServer(scenario.settings.remembered_images ?? 256);
  const settings = settingsOf(scenario.settings);
  const left = [...scenario.exchanges];
  let now = 1000;
  const around = {
    known,
    settings,
    clock: () => now,
    draw: () => scenario.draw,
    streams: scenario.streams,
    nowMs: () => NOW_MS,
    randomHex: (/** @type {number} */ bytes) => "0".repeat(2 * bytes),
  };
  /** @type {any[]} */
  const steps = [];
  const ends = [];
  for (const terms of scenario.asks) {
    const open = async () => original(scenario.picture);
    const conversation = new Conversation(open, scenario.question, terms, around).run();
    ends.push(await converse(conversation));
  }
  assert.deepEqual(left, []);
  return { steps, ends };

  /** @param {Generator<any, any, any>} conversation */
  async function converse(conversation) {
    try {
      let step = conversation.next();
      while (!step.done) {
        steps.push(shown(step.value));
        step = await perform(step.value).then((done) => conversation.next(done), (error) => conversation.throw(error));
      }
      const reply = JSON.parse(JSON.stringify(step.value));
      assert.equal(reply.receipt.layer, "body");
      delete reply.receipt.layer;
      return { reply };
    } catch (error) {
      if (!(error instanceof EdgeError)) throw error;
      const { name: kind, message, code, request_id, retry_after_s } = error;
      return withoutWords({ error: { kind, message, code, request_id, retry_after_s } });
    }
  }

  /** @param {any} step */
  async function perform(step) {
    if (step.kind === "compute") return step.work();
    if (step.kind === "pause") now += step.seconds;
    if (step.kind !== "send") return undefined;
    const exchange = left.shift();
    assert.ok(exchange, `no reply is left for ${step.method} ${step.path}`);
    now += exchange.after_s ?? 0.25;
    if (exchange.lost) return { ...exchange, uplink_bytes: exchange.uplink_bytes ?? 0, downlink_bytes: 0 };
    const body = "json" in exchange ? utf8.encode(JSON.stringify(exchange.json)) : utf8.encode(exchange.text.map(repeated).join(""));
    return {
      status: exchange.status, headers: exchange.headers ?? {}, body, uplink_bytes: typicalSize(step),
      downlink_bytes: exchange.bytes,
    };
  }
}

/** @param {[string, number]} piece */
const repeated = ([text, times]) => text.repeat(times);

/** @param {any} step */
function shown(step) {
  if (step.kind === "compute") return { kind: "compute", what: step.what };
  if (step.kind === "answered") return { kind: "answered", stage: step.reply.stage };
  if (step.kind === "pause") return step;
  const headers = { ...step.headers };
  if (headers["Idempotency-Key"]?.length === 16) headers["Idempotency-Key"] = "random";
  const { stage, deadline, method, path } = step;
  return { kind: "send", stage, request: `${method} ${path}`, headers, body: new TextDecoder().decode(step.body), deadline };
}

/** What a picture is to a conversation, without pixels. @param {any} picture */
function original(picture) {
  if (picture.broken) throw new BadImageError("the picture cannot be read");
  return {
    width: picture.width,
    height: picture.height,
    encoded_bytes: picture.bytes,
    notes: [],
    contentKey: async () => (picture.key === undefined ? "a picture" : picture.key),
    draw: async (/** @type {any} */ pixels, /** @type {{width: number, height: number}} */ { width, height }) => ({
      width,
      height,
      write: async (/** @type {string} */ type, /** @type {number | null} */ quality) => {
        const where = pixels ? [pixels.left, pixels.top, pixels.right, pixels.bottom].join() : "all";
        const text = `${picture.start ?? ""}${type.slice(6)} ${width}x${height} q${quality ?? 0} ${where} `;
        const size = Math.floor((width * height * (quality ?? 200)) / (picture.divisor ?? 40_000));
        return utf8.encode(text.padEnd(size, "."));
      },
      close: () => {},
    }),
    close: () => {},
  };
}
