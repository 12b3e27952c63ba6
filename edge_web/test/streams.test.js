/** @file Answers whose tokens come one by one, before a real server. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { EdgeClient } from "../src/index.js";
import { REPLIES, picture, serving } from "./serving.js";

const QUICK = { retry_wait_s: 0.01 };
const [DRAFT, FINAL] = [REPLIES.POST, REPLIES.PUT];
const event = (/** @type {string} */ name, /** @type {unknown} */ data, end = "\n") =>
  [`event: ${name}`, `data: ${typeof data === "string" ? data : JSON.stringify(data)}`, "", ""].join(end);
const token = (/** @type {string} */ text) => event("token", { text, min_entropy: 0.25 });
const busy = {
  type: "about:blank", title: "Busy", status: 503, detail: "so it is", code: "busy", request_id: "r", retryable: true,
};

/**
 * Ask a server whose POST is answered by `pieces`, in turn for each attempt; null breaks the connection.
 *
 * @param {(Array<string | Uint8Array | null>)[]} attempts @param {(token: any) => void} [onToken]
 */
async function asked(attempts, onToken) {
  /** @type {any[]} */
  const tokens = [];
  const left = [...attempts];
  let reply, thrown, requests;
  const answer = async (/** @type {any} */ request, /** @type {any} */ response) => {
    if (request.method === "GET") return response.end(JSON.stringify(REPLIES.GET));
    response.setHeader("Content-Type", "Text/Event-Stream; charset=utf-8");
    if (request.method === "PUT") return response.end(token("fi") + token("nal") + event("reply", FINAL));
    for (const piece of left.shift() ?? []) {
      if (piece === null) return request.socket.destroy();
      response.write(piece);
      await new Promise((resolve) => setTimeout(resolve, 5)); // a piece for itself
    }
    return response.end();
  };
  await serving((request, response) => answer(request, response), async (url, seen) => {
    const client = new EdgeClient({ url, settings: QUICK });
    onToken ??= (each) => tokens.push(`${each.stage} ${each.text} ${each.min_entropy}`);
    await client.ask(picture(), "What is it?", { onToken }).then((value) => (reply = value), (error) => (thrown = error));
    requests = seen;
  });
  return { reply: /** @type {any} */ (reply), thrown: /** @type {any} */ (thrown), tokens, seen: /** @type {any} */ (requests) };
}

test("tokens of both stages are told, and the replies are whole", async () => {
  const { reply, tokens, seen } = await asked([[token("dr"), token("aft"), event("region", {}), event("reply", DRAFT)]]);
  assert.deepEqual(tokens, ["1 dr 0.25", "1 aft 0.25", "2 fi 0.25", "2 nal 0.25"]);
  assert.deepEqual([reply.answer, reply.draft_answer], ["final", "draft"]);
  assert.deepEqual(seen.map((/** @type {any} */ { headers }) => headers.accept), ["*/*", "text/event-stream", "text/event-stream"]);
  assert.ok(reply.receipt.downlink_bytes > 4 * token("aft").length + JSON.stringify([DRAFT, FINAL]).length);
});

test("tokens come before the answer is done", async () => {
  const seen = /** @type {(value?: unknown) => void} */ (() => {});
  let told = seen;
  const first = new Promise((resolve) => (told = resolve));
  const answer = async (/** @type {any} */ request, /** @type {any} */ response) => {
    if (request.method === "GET") return response.end(JSON.stringify(REPLIES.GET));
    response.setHeader("Content-Type", "text/event-stream");
    if (request.method === "POST") {
      response.write(token("dr"));
      await first; // for ever if tokens are kept until the end
    }
    return response.end(event("reply", request.method === "POST" ? DRAFT : FINAL));
  };
  await serving((request, response) => answer(request, response), async (url) => {
    const reply = await new EdgeClient({ url }).ask(picture(), "What is it?", { onToken: () => told(), timeout_s: 20 });
    assert.equal(reply.answer, "final");
  });
});

test("a server that streams nothing is understood", async () => {
  await serving(() => false, async (url) => {
    const told = () => assert.fail("there are no tokens");
    assert.equal((await new EdgeClient({ url }).ask(picture(), "What is it?", { onToken: told })).answer, "final");
  });
});

test("events are read however they are cut and ended", async () => {
  const text = "ß何🙂";
  const whole = `: a comment\n\nevent\ndata:${JSON.stringify({ text, min_entropy: 0 })}\nevent:token\n\n`
    + event("news", "x") + event("token", { text, min_entropy: 1 }, "\r\n") + event("reply", DRAFT, "\r\n") + token("late") + event("reply", {});
  const bytes = new TextEncoder().encode(whole);
  const cuts = [1, 2, 3, 7, 64].map((size) =>
    Array.from({ length: Math.ceil(bytes.length / size) }, (_, at) => bytes.subarray(at * size, (at + 1) * size)));
  const ends = await Promise.all(cuts.slice(3).map((cut) => asked([cut])));
  // Crumbs that no network makes go past the network.
  const { readWhole } = await import("../src/events.js");
  for (const cut of cuts) {
    /** @type {string[]} */
    const texts = [];
    const body = new ReadableStream({ start: (stream) => (cut.forEach((each) => stream.enqueue(each)), stream.close()) });
    const read = await readWhole(new Response(body, { headers: { "Content-Type": "text/event-stream" } }), (each) => texts.push(each.text));
    assert.deepEqual([texts, JSON.parse(new TextDecoder().decode(read.body)), read.bytes], [[text, text], DRAFT, bytes.length]);
  }
  for (const { reply, tokens } of ends) {
    assert.deepEqual(tokens.slice(0, 2), [`1 ${text} 0`, `1 ${text} 1`]);
    assert.equal(reply.answer, "final");
  }
});

test("after a cut stream tokens are told only once", async () => {
  const whole = [token("a"), token("b"), token("c"), event("reply", DRAFT)];
  const { reply, tokens } = await asked([[...whole.slice(0, 2), null], [whole[0], ""], whole]);
  assert.deepEqual(tokens.slice(0, 3), ["1 a 0.25", "1 b 0.25", "1 c 0.25"]);
  assert.deepEqual([reply.answer, reply.receipt.retries], ["final", 2]);
});

test("a stream without an end is a connection that broke", async () => {
  const { thrown, seen } = await asked(Array(3).fill([token("a")]));
  assert.deepEqual([thrown.name, thrown.message], ["ServerUnavailableError", "the connection broke: the stream ended before the reply"]);
  assert.equal(seen.length, 4);
});

test("a problem may come in place of a reply", async () => {
  const { reply } = await asked([[token("a"), event("problem", busy)], [event("reply", DRAFT)]]);
  assert.equal(reply.receipt.retries, 1);
  const { thrown } = await asked([[event("problem", { ...busy, status: 403, code: "forbidden", retryable: false })]]);
  assert.equal(thrown.name, "NotAllowedError");
});

for (const [name, piece] of Object.entries({
  "bad UTF-8": new Uint8Array([0xc3, 0x28, 10]),
  "a token of nothing": event("token", {}),
  "a problem of nothing": event("problem", {}),
  "no JSON": event("token", "{"),
})) {
  test(`a stream that makes no sense is not asked again: ${name}`, async () => {
    const { thrown, seen } = await asked([[piece, event("reply", DRAFT)]]);
    assert.deepEqual([thrown?.name, thrown?.message], ["ProtocolError", "the server's stream makes no sense"]);
    assert.equal(seen.length, 2);
  });
}

test("what the caller throws is the caller's", async () => {
  const mine = new RangeError("mine");
  const { thrown, seen } = await asked([[token("a"), event("reply", DRAFT)]], () => {
    throw mine;
  });
  assert.equal(thrown, mine);
  assert.equal(seen.length, 2);
});
