"""What the service manager is told: ready, reloading, stopping, still alive.

The protocol of sd_notify(3) is one datagram a message, to the socket that $NOTIFY_SOCKET names; without that
variable nothing is done. When to say what is left to the app.

Saying it never waits and never fails. The manager's queue may be full: then what is said waits its turn and
is said again a little later. The manager's socket may be gone: that is logged, once.
Sources: sd_notify(3), sd_watchdog_enabled(3), systemd.service(5).
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections import deque
from collections.abc import MutableMapping

from middlewares.clocks import Timer
from proxy.logs import Journal

_AGAIN_S = 0.1
"""Until what found the manager's queue full is said again."""
_WAITING_AT_MOST = 64
"""Messages; the oldest is given up for a manager that takes none any more."""
_LONGEST_USEC = 2**53
_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class Notifier:
    """One process's line to its manager.

    It takes its variables out of `environ`: what this process starts is not the service and is not to
    speak for it. Only the program that is to take over gets them, as `for_successor`.
    """

    def __init__(self, environ: MutableMapping[str, str], timer: Timer, journal: Journal) -> None:
        taken = {name: environ.pop(name, "") for name in _VARIABLES}
        self._timer = timer
        self._journal = journal
        self._place = taken["NOTIFY_SOCKET"]
        self._usec = _allowed(taken["WATCHDOG_USEC"], taken["WATCHDOG_PID"]) if self._place else 0
        self._waiting: deque[bytes] = deque(maxlen=_WAITING_AT_MOST)
        self._all_said = asyncio.Event()
        self._all_said.set()
        self._again: asyncio.TimerHandle | None = None
        self._beat: asyncio.TimerHandle | None = None
        self._lost = False
        self._silent = not self._place
        self._socket = None if self._silent else self._open()

    @property
    def interval(self) -> float | None:
        """Seconds between two signs of life, half of what the manager allows; None where it wants none."""
        return self._usec / 2_000_000 if self._usec else None

    @property
    def for_successor(self) -> dict[str, str]:
        """Variables for the program that takes over: it has the same manager, and the same watchdog."""
        if not self._place:
            return {}
        watchdog = {"WATCHDOG_USEC": str(self._usec)} if self._usec else {}
        return {"NOTIFY_SOCKET": self._place, **watchdog}

    def ready(self, status: str = "") -> None:
        """It serves, for the first time or again after `reloading`. From now on signs of life are sent."""
        self._say("READY=1", *_told(status))
        if self._beat is None:
            self._live()

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._say("STATUS=" + _line(text))

    def reloading(self, status: str = "") -> None:
        """It loads its table anew; `ready` must follow, whatever comes of that."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._say("RELOADING=1", f"MONOTONIC_USEC={now}", *_told(status))

    def stopping(self, status: str = "") -> None:
        """It drains, for as long as its unit allows."""
        self._say("STOPPING=1", *_told(status))

    def watchdog(self) -> None:
        """A sign of life."""
        self._say("WATCHDOG=1")

    def hand_over(self, pid: int) -> None:
        """From now on the process `pid` is the service, and nothing more is said from here.

        Under `NotifyAccess=main` the manager takes what `pid` says after this, and nothing before.
        """
        self._say(f"MAINPID={pid}")
        self._silent = True
        self._stop_living()

    async def all_said(self) -> None:
        """Until the manager has taken everything; bound it, since that may be never."""
        await self._all_said.wait()

    def close(self) -> None:
        """Say nothing more. What waits is tried once more."""
        self._silent = True
        self._stop_living()
        if self._again is not None:
            self._again.cancel()
            self._again = None
        if self._socket is not None:
            self._send_waiting()
            self._socket.close()
            self._socket = None

    def _open(self) -> socket.socket | None:
        try:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        except OSError as error:
            self._lose(error)
            return None
        sock.setblocking(False)
        return sock

    def _live(self) -> None:
        if (every := self.interval) is not None and not self._silent:
            self.watchdog()
            self._beat = self._timer.call_at(self._timer.time() + every, self._live)

    def _stop_living(self) -> None:
        if self._beat is not None:
            self._beat.cancel()
            self._beat = None

    def _say(self, *lines: str) -> None:
        if self._silent:
            return
        message = "\n".join(lines).encode("utf-8", "replace")
        self._waiting.append(message)
        if self._again is None:
            self._say_again()

    def _say_again(self) -> None:
        self._again = None
        self._send_waiting()
        if self._waiting:
            self._again = self._timer.call_at(self._timer.time() + _AGAIN_S, self._say_again)

    def _send_waiting(self) -> None:
        while self._waiting and self._send(self._waiting[0]):
            self._waiting.popleft()
        (self._all_said.clear if self._waiting else self._all_said.set)()

    def _send(self, message: bytes) -> bool:
        """False if it should be said again."""
        if self._socket is None:
            return True
        place = os.fsencode(self._place)
        try:
            self._socket.sendto(message, b"\0" + place[1:] if place.startswith(b"@") else place)
        except BlockingIOError:
            return False
        except OSError as error:
            self._lose(error)
            return True
        self._lost = False
        return True

    def _lose(self, error: OSError) -> None:
        """The manager cannot be told; whoever reads the log can, once until it is back."""
        if not self._lost:
            self._lost = True
            self._journal.warning("notify_failed", reason=error.strerror or str(error))


def _allowed(usec: str, pid: str) -> int:
    """Microseconds that may pass without a sign of life; 0 where none is asked of this process."""
    if pid not in ("", str(os.getpid())):
        return 0
    try:
        return min(max(0, int(usec)), _LONGEST_USEC)
    except ValueError:
        return 0


def _told(status: str) -> list[str]:
    return [f"STATUS={_line(status)}"] if status else []


def _line(text: str) -> str:
    """In one line: the next would be another assignment."""
    return " ".join(text.split())
