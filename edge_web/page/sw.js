/** @file Keeps the page's own files, so that it opens without a network. Requests to the server pass by it. */

const CACHE = "second-glance-page";
const PATIENCE_MS = 3000; // for the network, before a kept file is shown
const FILES = [
  "./", "app.css", "app.js", "asking.js", "camera.js", "icon-192.png", "icon-512.png", "icon.svg",
  "manifest.webmanifest", "photo.js", "progress.js", "show.js", "words.js",
  "src/aside.js", "src/browser.js", "src/client.js", "src/conversation.js", "src/doubt.js", "src/encoding.js",
  "src/errors.js", "src/events.js", "src/failures.js", "src/fit.js", "src/index.js", "src/known.js", "src/ledger.js",
  "src/pictures.js", "src/replies.js", "src/reply.js", "src/resize.js", "src/retry.js", "src/settings.js",
  "src/sha256.js", "src/text.js", "src/wire.js", "src/worker.js",
];

self.addEventListener("install", (event) => {
  self.skipWaiting();
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(FILES.map((file) => new Request(file, { cache: "reload" })))));
});
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));

self.addEventListener("fetch", (event) => {
  const { request } = event;
  if (request.method === "GET" && request.url.startsWith(self.registration.scope)) event.respondWith(file(request));
});

/** The newest file if the network gives it in time, else the one that was kept. */
async function file(request) {
  const cache = await caches.open(CACHE);
  const fresh = fetch(request).then(async (reply) => {
    if (reply.ok && !reply.redirected) await cache.put(request, reply.clone());
    return reply;
  });
  fresh.catch(() => {}); // it may fail after a kept file was shown
  const late = new Promise((_, reject) => setTimeout(reject, PATIENCE_MS));
  try {
    return await Promise.race([fresh, late]);
  } catch {
    return (await cache.match(request, { ignoreSearch: true, ignoreVary: true })) ?? fresh;
  }
}
