/** @file When a failed request is worth another try, and how long to wait first. Nothing here sleeps. */

const YEAR_S = 365 * 24 * 3600;
const MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAY = "(?:[a-z]{3,9},? +)?";
const TIME = "(\\d{1,2}):(\\d{2})(?::(\\d{2}))?";
const HTTP_DATE = new RegExp(`^${DAY}(\\d{1,2})[ -]([a-z]{3})[ -](\\d{2}|\\d{4}) +${TIME}(?: +(gmt|utc|[+-]\\d{4}))?$`, "i");
const ASCTIME = new RegExp(`^${DAY}([a-z]{3}) +(\\d{1,2}) +${TIME} +(\\d{4})$`, "i");

/**
 * Return the seconds before the next attempt, or null to give up. `retried` counts retries so far; `draw` gives
 * [0, 1): edges that failed together must not come back together.
 *
 * @param {import("./settings.js").Settings} settings
 * @param {number} retried
 * @param {number | null} retryAfterS what the server says
 * @param {() => number} draw
 */
export function waitBefore(settings, retried, retryAfterS, draw) {
  if (retried >= settings.retries) return null;
  if (retryAfterS === null) {
    return Math.min(settings.max_retry_wait_s, settings.retry_wait_s * 2 ** retried) * (1 - draw() / 2);
  }
  if (retryAfterS > settings.max_retry_after_s) return null;
  return retryAfterS + settings.retry_wait_s * draw();
}

/**
 * Return the seconds of a `Retry-After` header, at most a year's; null if there is none or it cannot be read.
 *
 * @param {string | null | undefined} value a number or an HTTP date
 * @param {number} nowMs since 1970
 */
export function parseRetryAfter(value, nowMs) {
  const text = (value ?? "").trim();
  if (/^[0-9]+$/.test(text)) return Math.min(Number(text), YEAR_S);
  if (/^-[0-9]+$/.test(text)) return 0;
  const atMs = text.length > 64 ? null : parseDate(text);
  return atMs === null ? null : Math.min(Math.max(0, (atMs - nowMs) / 1000), YEAR_S);
}

/** @param {string} text @returns {number | null} milliseconds since 1970 */
function parseDate(text) {
  let day, month, year, hour, minute, second, zone;
  const found = HTTP_DATE.exec(text);
  if (found) [, day, month, year, hour, minute, second, zone] = found;
  else {
    const other = ASCTIME.exec(text);
    if (!other) return null;
    [, month, day, hour, minute, second, year] = other;
  }
  const years = Number(year) + (year.length > 2 ? 0 : Number(year) > 68 ? 1900 : 2000);
  const parts = [years, MONTHS.indexOf(month.toLowerCase()), Number(day), Number(hour), Number(minute), Number(second ?? 0)];
  const date = new Date(Date.UTC(parts[0], parts[1], parts[2], parts[3], parts[4], parts[5]));
  const read = [
    date.getUTCFullYear(), date.getUTCMonth(), date.getUTCDate(), date.getUTCHours(), date.getUTCMinutes(), date.getUTCSeconds(),
  ];
  if (read.some((part, index) => part !== parts[index])) return null; // no such day
  const offset = zone && /\d/.test(zone) ? Number(zone.slice(0, 3)) * 60 + Number(zone[0] + zone.slice(3)) : 0;
  return date.getTime() - offset * 60_000;
}
