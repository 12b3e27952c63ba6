/**
 * @file A bar that moves while bytes are on their way.
 *
 * No browser tells a page how much of a request has left: XMLHttpRequest says 100 % when the last byte is in a
 * buffer. So the bar is an estimate from the rate of earlier requests, and is full only when the reply is there.
 */

const FIRST_GUESS = 64_000; // bytes a second, until a request has shown better
const SLOWEST = 2_000;
const WAIT_S = 0.3; // for the answer itself

/** Estimates how far a request is. */
export class Bar {
  /** @param {HTMLProgressElement} element */
  constructor(element) {
    this.element = element;
    this.rate = FIRST_GUESS;
    this.timer = 0;
  }

  /** @param {number} bytes that a request sends now */
  begin(bytes) {
    const expected = WAIT_S + bytes / this.rate;
    const began = performance.now();
    this.end();
    this.element.value = 0;
    this.timer = setInterval(() => {
      const elapsed = (performance.now() - began) / 1000;
      // Two thirds when the time is up; then slower, and never full.
      this.element.value = (100 * elapsed) / (elapsed + expected / 2);
    }, 40);
  }

  /** Learn from a request that has been answered. @param {number} bytes @param {number} elapsedMs */
  learn(bytes, elapsedMs) {
    const seconds = elapsedMs / 1000 - WAIT_S;
    if (bytes > 0 && seconds > 0) this.rate = Math.max(SLOWEST, (this.rate + bytes / seconds) / 2);
  }

  /** Stop moving. */
  end() {
    clearInterval(this.timer);
  }
}
