/** @file The client before a real server: what fetch sends, and what ends a question. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { EdgeClient, ProtocolError, ServerUnavailableError, TimedOutError, UsageError } from "../src/index.js";
import { REPLIES, picture, serving } from "./serving.js";

const QUICK = { retry_wait_s: 0.01 };

test("both stages", async () => {
  await serving(() => false, async (url, seen) => {
    const client = new EdgeClient({ url: `${url}/`, apiKey: "secret", settings: { trace: true } });
    /** @type {string[]} */
    const steps = [];
    const shown = picture();
    const reply = await client.ask(shown, "What is it?", { onStep: (step) => steps.push(step.kind) });
    assert.deepEqual([reply.answer, reply.stage, reply.draft_answer], ["final", 2, "draft"]);
    assert.deepEqual(reply.notes, ["drawn by hand"]);
    assert.ok(shown.isClosed);
    assert.deepEqual(seen.map(({ method, url: path }) => `${method} ${path}`), [
      "GET /v1/model", "POST /v1/inferences", "PUT /v1/inferences/inf-1/patch",
    ]);
    const bodies = seen.reduce((sum, { body }) => sum + body.length, 0);
    assert.equal(reply.receipt.uplink_bytes, bodies);
    assert.equal(reply.receipt.requests, 3);
    for (const { headers, body } of seen) {
      assert.equal(headers.authorization, "Bearer secret");
      assert.match(headers.traceparent, new RegExp(`^00-${reply.trace_id}-[0-9a-f]{16}-01$`));
      assert.equal(headers["x-deadline-ms"], undefined);
      assert.equal(headers.accept, "*/*", "no stream where nobody wants tokens");
      assert.equal(headers["content-length"] ?? "0", String(body.length));
    }
    assert.match(seen[1].headers["idempotency-key"], /^[0-9a-f]{16}$/);
    assert.equal(seen[1].headers["content-type"], "multipart/form-data; boundary=0");
    assert.equal(seen[2].headers["content-type"], "image/webp");
    assert.deepEqual(steps, ["compute", "send", "compute", "compute", "send", "answered", "compute", "send", "answered"]);
    await client.ask(picture(), "And now?");
    assert.equal(seen.filter(({ method }) => method === "GET").length, 1);
  });
});

test("a trace is named only where it is wanted", async () => {
  const [ours, span] = ["0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"];
  const answer = (/** @type {any} */ _, /** @type {any} */ response) => void response.setHeader("traceresponse", `00-${ours}-${span}-01`);
  await serving(answer, async (url, seen) => {
    assert.equal((await new EdgeClient({ url }).ask(picture(), "What is it?")).trace_id, ours);
    assert.ok(seen.every(({ headers }) => headers.traceparent === undefined));
  });
});

test("a picture is the body and its question a header, if the server takes that", async () => {
  const answer = (/** @type {any} */ request, /** @type {any} */ response) => {
    if (request.method === "GET") response.end(JSON.stringify({ .../** @type {any} */ (REPLIES.GET), raw_image: true }));
    return request.method === "GET";
  };
  await serving(answer, async (url, seen) => {
    const reply = await new EdgeClient({ url }).ask(picture(), "Wo ist es? ß 何");
    const [, { headers, body }] = seen;
    assert.deepEqual(JSON.parse(headers["x-question"]), { question: "Wo ist es? ß 何", image: { width: 4000, height: 3000 } });
    assert.deepEqual([headers["content-type"], body.toString()], ["image/webp", "image/webp 448x336"]);
    assert.equal(reply.receipt.stage1.uplink_bytes, body.length + headers["x-question"].length);
  });
});

test("a budget counts 512 bytes for each head, and the bytes of earlier requests", async () => {
  await serving(() => false, async (url, seen) => {
    const bodies = () => seen.reduce((sum, { body }) => sum + body.length, 0);
    await new EdgeClient({ url }).ask(picture(), "What is it?");
    const needed = 3 * 512 + bodies();
    const asked = (/** @type {number} */ max_uplink_bytes) => new EdgeClient({ url }).ask(picture(), "What is it?", { max_uplink_bytes });
    assert.equal((await asked(needed)).degraded, null);
    assert.match((await asked(needed - 1)).degraded ?? "", new RegExp(`max_uplink_bytes=${needed} at the least`));
  });
});

test("further looks while the answer stays doubtful", async () => {
  const model = { .../** @type {any} */ (REPLIES.GET), max_rounds: 3 };
  const { roi, patch } = /** @type {any} */ (REPLIES.POST);
  const wanted = { ...roi, pixels: { ...roi.pixels, left: roi.pixels.left + 300 } };
  let looks = 0;
  const answer = (/** @type {any} */ request, /** @type {any} */ response) => {
    if (request.method === "POST") return false;
    if (request.method === "GET") response.end(JSON.stringify(model));
    else if (looks++) return false;
    else response.end(JSON.stringify({ .../** @type {any} */ (REPLIES.PUT), answer: "closer", status: "needs_patch", roi: wanted, patch }));
    return true;
  };
  await serving(answer, async (url, seen) => {
    const client = new EdgeClient({ url });
    const reply = await client.ask(picture(), "What is it?", { max_rounds: 9 });
    assert.match(seen[1].body.toString(), /"max_rounds":3\}/);
    assert.deepEqual(reply.looks.map((look) => [look.reply.answer, look.roi.pixels.left]), [
      ["closer", roi.pixels.left], ["final", wanted.pixels.left],
    ]);
    assert.deepEqual([reply.answer, reply.roi, reply.receipt.requests], ["final", wanted, 4]);
    assert.deepEqual(reply.receipt.further_looks.map((each) => each.uplink_bytes), [seen[3].body.length]);
    await assert.rejects(client.ask(picture(), "What is it?", { max_rounds: 0 }), UsageError);
  });
});

test("a retry sends the same bytes under the same name", async () => {
  let failures = 2;
  const answer = (/** @type {any} */ request, /** @type {any} */ response) => {
    if (request.method !== "POST" || failures-- <= 0) return false;
    if (failures) request.socket.destroy();
    else response.writeHead(503, { "Retry-After": "0" }).end();
    return true;
  };
  await serving(answer, async (url, seen) => {
    const reply = await new EdgeClient({ url, settings: QUICK }).ask(picture(), "What is it?");
    assert.deepEqual([reply.answer, reply.receipt.retries], ["final", 2]);
    const posts = seen.filter(({ method }) => method === "POST");
    assert.equal(posts.length, 3);
    for (const post of posts) assert.deepEqual([post.headers, post.body], [posts[0].headers, posts[0].body]);
  });
});

test("the deadline ends a request, and the server is told of it", async () => {
  await serving((request) => request.method === "POST", async (url, seen) => {
    const began = performance.now();
    const shown = picture();
    await assert.rejects(new EdgeClient({ url }).ask(shown, "What is it?", { timeout_s: 0.4 }), TimedOutError);
    assert.ok(performance.now() - began < 3000);
    assert.ok(shown.isClosed);
    const left = Number(seen[1].headers["x-deadline-ms"]);
    assert.ok(left > 0 && left <= 400, String(left));
  });
});

test("one request may take only so long", async () => {
  await serving(() => true, async (url, seen) => {
    const client = new EdgeClient({ url, settings: { total_timeout_s: 0.2 } });
    await assert.rejects(client.model(), { name: "TimedOutError", message: "no answer in time: GET /v1/model" });
    assert.equal(seen.length, 1);
  });
});

test("a body that never ends is cut by the clock as well", async () => {
  const answer = (/** @type {any} */ _, /** @type {any} */ response) => response.write("{");
  await serving(answer, async (url) => {
    await assert.rejects(new EdgeClient({ url, settings: { total_timeout_s: 0.2 } }).model(), TimedOutError);
  });
});

for (const at of ["while a request is on its way", "before a retry", "before it begins"]) {
  test(`a signal ends a question ${at}`, async () => {
    const wait = at === "before a retry";
    const answer = (/** @type {any} */ request, /** @type {any} */ response) => {
      if (request.method !== "PUT") return false;
      if (wait) response.writeHead(503, { "Retry-After": "60" }).end();
      return true;
    };
    await serving(answer, async (url, seen) => {
      const controller = new AbortController();
      const shown = picture();
      if (at === "before it begins") controller.abort();
      const onStep = (/** @type {any} */ step) => {
        if (step.kind === "pause" || (step.stage === "stage2" && !wait)) setTimeout(() => controller.abort(), 50);
      };
      const asked = new EdgeClient({ url }).ask(shown, "What is it?", { signal: controller.signal, onStep });
      await assert.rejects(asked, { name: "AbortError" }, "no draft: whoever asked has left");
      assert.equal(shown.isClosed, at !== "before it begins");
      assert.equal(seen.length, at === "before it begins" ? 0 : 3);
    });
  });
}

test("a reply without end is given up", async () => {
  const piece = Buffer.alloc(1024 * 1024, " ");
  let sent = 0;
  const answer = (/** @type {any} */ _, /** @type {any} */ response) => {
    const more = () => {
      while (!response.destroyed && sent < 2 ** 28 && response.write(piece)) sent += piece.length;
    };
    response.on("drain", more);
    more();
    return true;
  };
  await serving(answer, async (url) => {
    await assert.rejects(new EdgeClient({ url }).model(), { name: "ProtocolError", message: "the reply exceeds 8388608 bytes" });
    assert.ok(sent < 2 ** 26, `${sent} bytes were taken`);
  });
});

test("nobody is sent elsewhere", async () => {
  const answer = (/** @type {any} */ _, /** @type {any} */ response) => response.writeHead(302, { Location: "/v2" }).end();
  await serving(answer, async (url, seen) => {
    await assert.rejects(new EdgeClient({ url, apiKey: "secret" }).model(), ProtocolError);
    assert.equal(seen.length, 1);
  });
});

test("nobody is there", async () => {
  let gone = "";
  await serving(() => false, async (url) => void (gone = url));
  await assert.rejects(new EdgeClient({ url: gone, settings: QUICK }).model(), (/** @type {any} */ error) => {
    assert.ok(error instanceof ServerUnavailableError);
    assert.match(error.message, /^cannot connect: .*ECONNREFUSED/);
    return true;
  });
});

test("what cannot work is said before anything is sent", async () => {
  for (const url of ["", "server", "ftp://server", "http://server?x", "http://server#x", "http://me:secret@server"]) {
    assert.throws(() => new EdgeClient({ url }), UsageError, url);
  }
  const settings = [{ retires: 1 }, { retries: -1 }, { retries: NaN }, { retries: "1" }, { format: "tiff" }, { trace: 1 }];
  for (const each of settings) assert.throws(() => new EdgeClient({ url: "http://server", settings: /** @type {any} */ (each) }), UsageError);
  const client = new EdgeClient({ url: "http://server" });
  await assert.rejects(client.ask(picture(), "What?", /** @type {any} */ ({ timeout: 3 })), UsageError);
});
