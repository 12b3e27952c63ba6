/** @file The library: `import { EdgeClient } from "second-glance"`. */

export { EdgeClient } from "./client.js";
export { REASONS } from "./doubt.js";
export * from "./errors.js";
export { Receipt, Reply } from "./reply.js";

/**
 * @typedef {import("./client.js").Token} Token
 * @typedef {import("./conversation.js").Step} Step
 * @typedef {import("./conversation.js").Original} Original
 * @typedef {import("./replies.js").InferenceResponse} InferenceResponse
 * @typedef {import("./replies.js").ModelResponse} ModelResponse
 * @typedef {import("./replies.js").PixelBox} PixelBox
 * @typedef {import("./replies.js").Roi} Roi
 * @typedef {import("./settings.js").Settings} Settings
 * @typedef {import("./wire.js").Terms} Terms
 */
