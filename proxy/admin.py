"""The pages that are ours: health on every listener; metrics and status on the admin listener alone.

That one has nothing else: whatever is asked there besides is 404, with the names of what is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import msgspec
from aiohttp import web

from middlewares.faults import ClientFault
from proxy.metrics import Snapshot, merged
from proxy.relay import Downstream, error_answer
from proxy.status import Observed, snapshot_of, status_of, together
from proxy.wire import split_target

Page = Callable[[Downstream], Awaitable[None]]

_JSON = "application/json"


class Pages:
    """Those of one listener."""

    def __init__(self, program: Observed, *, admin: bool) -> None:
        self._program = program
        self._rendering = asyncio.Lock()
        self._pages: dict[str, Page] = {"/healthz": self._health, "/readyz": self._readiness}
        self._otherwise: Page | None = None
        if admin:
            self._pages |= {"/metrics": self._metrics, "/status": self._status}
            self._otherwise = self._nothing

    def find(self, request: web.BaseRequest) -> Page | None:
        """The page that a request is for, None if it is for a provider."""
        if request.method not in ("GET", "HEAD"):
            return self._otherwise
        return self._pages.get(split_target(request.raw_path)[0], self._otherwise)

    async def _health(self, down: Downstream) -> None:
        _answer(down, 200, _JSON, b'{"status": "ok"}\n')

    async def _readiness(self, down: Downstream) -> None:
        if self._program.draining:
            _answer(down, 503, _JSON, b'{"status": "draining"}\n')
        elif not self._program.served():
            _answer(down, 503, _JSON, b'{"status": "no worker serves"}\n')
        else:
            _answer(down, 200, _JSON, b'{"status": "ready"}\n')

    async def _metrics(self, down: Downstream) -> None:
        # One at a time: whoever asks too often waits, and the exchanges do not.
        async with self._rendering:
            reports = await self._program.others()
            snapshots = [snapshot_of(self._program), *(report.snapshot for report in reports)]
            kind, body = await asyncio.to_thread(_rendered, snapshots)
        _answer(down, 200, kind, body)

    async def _status(self, down: Downstream) -> None:
        status = status_of(self._program)
        if reports := await self._program.others():
            status = together(status, reports)
        body = msgspec.json.format(msgspec.json.encode(status), indent=2)
        _answer(down, 200, _JSON, body + b"\n")

    async def _nothing(self, down: Downstream) -> None:
        pages = "GET /healthz, /readyz, /metrics and /status"
        error_answer(down, ClientFault("not_found", f"The admin listener serves {pages}."), "other", ())


def _rendered(snapshots: Sequence[Snapshot]) -> tuple[str, bytes]:
    # Late: serving needs none of it until somebody asks.
    from proxy.exposition import CONTENT_TYPE, render  # noqa: PLC0415

    return CONTENT_TYPE, render(merged(snapshots))


def _answer(down: Downstream, status: int, kind: str, body: bytes) -> None:
    down.answer(status, [("Content-Type", kind), ("Cache-Control", "no-store")], body)
