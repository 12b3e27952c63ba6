"""The bytes of a request's body, counted for the quota of its key."""

from __future__ import annotations

from collections.abc import Callable


class BodyMeter:
    """Counts the bytes of one request's body as they are read, whichever layer reads them."""

    def __init__(self) -> None:
        self._uncharged = 0
        self._charge: Callable[[int], None] | None = None

    def count(self, n_bytes: int) -> None:
        """Note that so many more bytes were read."""
        if self._charge is None:
            self._uncharged += n_bytes
        else:
            self._charge(n_bytes)

    def charge_to(self, charge: Callable[[int], None]) -> None:
        """Call `charge` with what was read so far, and with all that is read from now on."""
        charge(self._uncharged)
        self._uncharged, self._charge = 0, charge
