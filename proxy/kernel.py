"""What the kernel knows of a connection and our own buffers do not: how much the far end took."""

from __future__ import annotations

import fcntl
import socket
import struct
import sys
import termios
from array import array

_ACKNOWLEDGED_AT = 120
"""Of `tcpi_bytes_acked` in Linux's struct tcp_info (linux/tcp.h, since 4.1)."""
_COUNTER = struct.Struct("=Q")
_INFO_BYTES = _ACKNOWLEDGED_AT + _COUNTER.size


def bytes_taken(sock: socket.socket, buffered: int) -> int:
    """A number that grows with each byte that the far end takes; only its growth means anything.

    `buffered` is what waits in our own buffer. It would not do alone: the kernel holds megabytes and
    says that there is room again only when a third is free, so a peer that takes a few KB/s would
    seem to stand still. Under TLS bytes wait in buffers that nobody counts; there the kernel's count
    of what was acknowledged is the only one.
    """
    if sys.platform == "linux" and sock.family in (socket.AF_INET, socket.AF_INET6):
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
        if len(info) == _INFO_BYTES:
            acknowledged: int = _COUNTER.unpack_from(info, _ACKNOWLEDGED_AT)[0]
            return acknowledged
    queued = array("i", [0])
    fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, queued)
    return -(buffered + queued[0])
