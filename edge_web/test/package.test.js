/** @file The files together: their size, and the list of those that the page keeps for when there is no network. */

import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { test } from "node:test";
import { gzipSync } from "node:zlib";

const ROOT = new URL("../", import.meta.url);
const source = readdirSync(new URL("src/", ROOT)).filter((name) => name.endsWith(".js"));
const text = (/** @type {string} */ path) => readFileSync(new URL(path, ROOT), "utf8");

test("the library for browsers is small", () => {
  const files = source.filter((name) => name !== "sharp.js").map((name) => text(`src/${name}`));
  const bundle = files.join("").replaceAll(/\/\*\*.*?\*\/|(?<=\s)\/\/ [^\n]*/gs, ""); // as bundlers ship it, which minify names as well
  const bytes = gzipSync(bundle).length;
  console.log(`${bytes} bytes gzipped without its comments`);
  assert.ok(bytes <= 20_000, String(bytes));
});

test("the page's first load is small", () => {
  const page = readdirSync(new URL("page/", ROOT)).filter((name) => /\.(html|css|js|webmanifest)$/.test(name) && name !== "sw.js");
  const files = [...page.map((name) => `page/${name}`), ...source.filter((name) => name !== "sharp.js").map((name) => `src/${name}`)];
  const bytes = files.map((path) => gzipSync(text(path)).length).reduce((sum, size) => sum + size, 0);
  console.log(`${bytes} bytes in ${files.length} files, each gzipped for itself, without icons`);
  assert.ok(bytes <= 60_000, String(bytes));
});

test("no module is imported that is not ours", () => {
  for (const name of source) {
    for (const [, path] of text(`src/${name}`).matchAll(/^(?:import|export)\b[^;]*?\bfrom "([^"]+)"/gms)) {
      assert.ok(path.startsWith("./") && source.includes(path.slice(2)), `${name} imports ${path}`);
    }
  }
});

test("the page keeps all files that a browser loads", () => {
  const [, list] = /const FILES = (\[.*?\n\]);/s.exec(text("page/sw.js")) ?? [];
  const kept = new Function(`return ${list}`)();
  const page = readdirSync(new URL("page/", ROOT)).filter((name) => !["sw.js", "index.html"].includes(name));
  const modules = source.filter((name) => name !== "sharp.js").map((name) => `src/${name}`);
  assert.deepEqual(kept.sort(), ["./", ...page, ...modules].sort());
});
