"""Notices a device that will not answer any more: its thread has ended, or a call does not come back.

Nothing in this process can help then: a thread cannot be stopped, and the device's state is unknown. So the
server says that it is not ready, fails what waits, and ends for its supervisor to start it anew.
"""

from __future__ import annotations

import asyncio
import logging

from secondglance_server.inference.device_queue import DeviceQueue
from secondglance_server.inference.readiness import Readiness

_log = logging.getLogger("secondglance_server.inference.watchdog")


async def watch(device: DeviceQueue, readiness: Readiness, *, max_call_s: float) -> None:
    """Returns when the device is given up; to be cancelled otherwise."""
    while (reason := _complaint(device, max_call_s)) is None:
        await asyncio.sleep(min(1.0, max_call_s / 4))
    _log.critical("device given up", extra={"reason": reason})
    readiness.fail(reason)
    device.abandon()


def _complaint(device: DeviceQueue, max_call_s: float) -> str | None:
    if device.death is not None:
        return device.death
    if device.call_age_s > max_call_s:
        return f"the device has not come back for {max_call_s:g} s"
    return None
