"""Segmentation offload, off: otherwise an interface counts one header for up to 64 KiB of segments.

What `ethtool -K NAME tso off gso off gro off tx off` does, by the same ioctl: ethtool is not everywhere.
Needs CAP_NET_ADMIN in the network namespace of the interface. Linux only.
"""

from __future__ import annotations

import array
import fcntl
import socket
import struct

_SIOCETHTOOL = 0x8946
_SETTERS = {"tso": 0x1F, "gso": 0x24, "gro": 0x2C, "tx": 0x17}  # ETHTOOL_S* of linux/ethtool.h
_GETTERS = {"tso": 0x1E, "gso": 0x23, "gro": 0x2B}


def turn_off(interface: str) -> None:
    """Turn offload off. Raises OSError where the interface or the permission is missing."""
    for command in _SETTERS.values():
        _ethtool(interface, command, 0)


def states(interface: str) -> dict[str, bool]:
    """Return whether each of tso, gso and gro is on."""
    return {name: bool(_ethtool(interface, command, 0)) for name, command in _GETTERS.items()}


def _ethtool(interface: str, command: int, value: int) -> int:
    wanted = array.array("I", [command, value])  # struct ethtool_value
    request = struct.pack("16sP", interface.encode(), wanted.buffer_info()[0])  # struct ifreq
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCETHTOOL, request)
    return wanted[1]
