/**
 * @file Everything that the client throws on purpose: the tree and the names of the Python edge.
 *
 * An aborted `signal` throws the signal's own reason instead.
 */

/** Base of the tree. `code`, `request_id` and `retry_after_s` (seconds) are the server's, where it gave them. */
export class EdgeError extends Error {
  /**
   * @param {string} message
   * @param {{code?: string | null, request_id?: string | null, retry_after_s?: number | null, status?: number | null}} [facts]
   */
  constructor(message, { code = null, request_id = null, retry_after_s = null, status = null } = {}) {
    super(message);
    this.name = new.target.name;
    this.code = code;
    this.request_id = request_id;
    this.retry_after_s = retry_after_s;
    this.status = status; // of HTTP; null where no reply came
  }
}

/** The original cannot be read or is too large, or the server refused it; another try does not help. */
export class BadImageError extends EdgeError {}

/** The arguments or settings cannot work; the message names what to change. */
export class UsageError extends EdgeError {}

/** The next request would exceed `max_uplink_bytes`; it was not sent. */
export class UplinkBudgetError extends UsageError {}

/** Nobody answers at that address, or the server failed; a later try may work. */
export class ServerUnavailableError extends EdgeError {}

/** The server is full, not ready or over this key's quota; try again after `retry_after_s` seconds. */
export class BusyError extends ServerUnavailableError {}

/** The key is missing, unknown or without the right. */
export class NotAllowedError extends EdgeError {}

/** The server no longer knows this image or conversation; ask again from the start. */
export class ExpiredError extends EdgeError {}

/** The server understood and said no: a conflict, an unknown route. */
export class RefusedError extends EdgeError {}

/** No answer came in time. */
export class TimedOutError extends EdgeError {}

/** The answer is not Second Glance's REST: a proxy's page, or another version. */
export class ProtocolError extends EdgeError {}
