"""What the kernel knows of a connection and our buffers do not: what the far end took. And how to end one."""

from __future__ import annotations

import fcntl
import socket
import struct
import sys
import termios
from array import array

_ACKNOWLEDGED_AT = 120
"""Of `tcpi_bytes_acked` in Linux's struct tcp_info (linux/tcp.h, since 4.1)."""
LAST_BYTES_WITHIN_MS = 30_000
"""For what is still buffered when a connection is closed."""
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


def give_up_after(sock: socket.socket, milliseconds: int) -> None:
    """Let buffered bytes leave, but not wait longer than this for a far end that takes none of them."""
    if sock.family in (socket.AF_INET, socket.AF_INET6) and hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)


def close_with_reset(sock: socket.socket) -> None:
    """Have the close that follows be a reset, whatever waits to be sent: the far end sees it at once."""
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
