/** @file SHA-256 in plain JavaScript: pages on plain http have no `crypto.subtle`, and a conversation does not wait. */

/** The first 32 bits of the fractions of the square (0.5) or cube (1/3) roots of the first primes. */
function roots(/** @type {number} */ count, /** @type {number} */ power) {
  const found = [];
  for (let number = 2; found.length < count; number++) {
    let isPrime = true;
    for (let factor = 2; factor * factor <= number && isPrime; factor++) isPrime = number % factor !== 0;
    if (isPrime) found.push(((number ** power % 1) * 2 ** 32) | 0);
  }
  return Int32Array.from(found);
}

const START = roots(8, 1 / 2);
const CONSTANTS = roots(64, 1 / 3);
const turned = (/** @type {number} */ word, /** @type {number} */ by) => (word >>> by) | (word << (32 - by));

/** @param {Uint8Array} data @returns {Uint8Array} 32 bytes */
export function sha256(data) {
  const state = Int32Array.from(START);
  const whole = data.length & ~63;
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  for (let at = 0; at < whole; at += 64) take(state, view, at);
  const rest = data.length - whole;
  const end = new Uint8Array(rest < 56 ? 64 : 128);
  end.set(data.subarray(whole));
  end[rest] = 0x80;
  const last = new DataView(end.buffer);
  last.setUint32(end.length - 8, Math.floor(data.length / 2 ** 29));
  last.setUint32(end.length - 4, data.length << 3);
  for (let at = 0; at < end.length; at += 64) take(state, last, at);
  const digest = new DataView(new ArrayBuffer(32));
  state.forEach((word, index) => digest.setInt32(4 * index, word));
  return new Uint8Array(digest.buffer);
}

/** @param {Uint8Array} bytes */
export const hex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");

const words = new Int32Array(64);

/** @param {Int32Array} state @param {DataView} block @param {number} at */
function take(state, block, at) {
  for (let i = 0; i < 64; i++) {
    if (i < 16) {
      words[i] = block.getInt32(at + 4 * i);
      continue;
    }
    const [early, late] = [words[i - 15], words[i - 2]];
    const low = turned(early, 7) ^ turned(early, 18) ^ (early >>> 3);
    const high = turned(late, 17) ^ turned(late, 19) ^ (late >>> 10);
    words[i] = words[i - 16] + low + words[i - 7] + high;
  }
  let [a, b, c, d, e, f, g, h] = state;
  for (let i = 0; i < 64; i++) {
    const one = (h + (turned(e, 6) ^ turned(e, 11) ^ turned(e, 25)) + ((e & f) ^ (~e & g)) + CONSTANTS[i] + words[i]) | 0;
    const two = ((turned(a, 2) ^ turned(a, 13) ^ turned(a, 22)) + ((a & b) ^ (a & c) ^ (b & c))) | 0;
    [a, b, c, d, e, f, g, h] = [(one + two) | 0, a, b, c, (d + one) | 0, e, f, g];
  }
  [a, b, c, d, e, f, g, h].forEach((word, index) => (state[index] += word));
}
