"""`GET /v1/models`: what every usable route lists, as ROUTE/MODEL, and the names under `models`.

Upstreams are asked all at once and are given two seconds; what they say is kept for five minutes, and
one that says nothing is left out. An explicit-only route is never asked.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import msgspec
from multidict import CIMultiDict, CIMultiDictProxy

from config.clients import Client
from middlewares.bodies import read_up_to
from middlewares.clocks import Clocks, Timer, Watch
from middlewares.exchange import Exchange, Inbound
from middlewares.faults import ClientFault, Fault
from middlewares.observation import decode
from middlewares.prefix_rewrite import PrefixRewrite
from proxy.ladder import Route
from proxy.logs import Journal, where
from proxy.table import OWN_AGENT, RouteTable

_PATIENCE = Clocks(connect=2.0, total=2.0)
_KEPT_S = 300.0
_SILENCE_KEPT_S = 10.0
"""So that a provider that is down does not cost every list two seconds, and is not missed for long."""
_READ_AT_MOST = 8 * 1024 * 1024


def asked_for(path: str) -> str | None:
    """The model that a path asks about: empty for all of them, None for another path."""
    if path == "/models":
        return ""
    name = path.removeprefix("/models/")
    return unquote(name) if name not in (path, "") else None


@dataclass(slots=True)
class _Known:
    route: Route
    models: tuple[dict[str, Any], ...]
    until: float


class ModelList:
    """What the upstreams said they have; one for the process."""

    def __init__(self, timer: Timer, journal: Journal) -> None:
        self._timer = timer
        self._journal = journal
        self._known: dict[str, _Known] = {}

    async def answer(self, table: RouteTable, wanted: str, client: Client | None) -> tuple[int, bytes]:
        """Status and body for a list, or for one model; ClientFault `model_not_found`.

        Of what there is, a client is shown what it may use.
        """
        models = await self._all(table, client)
        if not wanted:
            return 200, _encode({"object": "list", "data": models})
        found = next((model for model in models if model["id"] == wanted), None)
        if found is None:
            raise ClientFault(
                "model_not_found",
                f"No model {wanted[:80]!r} is listed. GET /v1/models lists them.",
                param="model",
            )
        return 200, _encode(found)

    async def _all(self, table: RouteTable, client: Client | None) -> list[dict[str, Any]]:
        routes = [route for route in table.routes.values() if route.usable()]
        # One route whose middleware fails must not take the others' models along.
        asked = await asyncio.gather(*(self._listed(route) for route in routes), return_exceptions=True)
        names = [name for name in table.names if client is None or client.may_name(name)]
        models = [_model(name, "tidegate") for name in names]
        for route, said in zip(routes, asked, strict=True):
            if isinstance(said, BaseException):
                self._journal.error(
                    "unforeseen", route=route.name, exception=type(said).__name__, where=where(said)
                )
            else:
                listed = [{**model, "id": f"{route.name}/{model['id']}"} for model in said]
                models += [m for m in listed if client is None or client.may_use(route.name, _seen(route, m))]
        return models

    async def _listed(self, route: Route) -> tuple[dict[str, Any], ...]:
        if route.listed is not None:
            return tuple(_model(name, route.name) for name in route.listed)
        known = self._known.get(route.name)
        now = self._timer.time()
        if known is not None and known.route is route and known.until > now:
            return known.models
        models = await _ask(route, self._timer)
        kept = _SILENCE_KEPT_S if models is None else _KEPT_S
        self._known[route.name] = _Known(route, models or (), self._timer.time() + kept)
        return models or ()


async def _ask(route: Route, timer: Timer) -> tuple[dict[str, Any], ...] | None:
    """The upstream's own list, through the route's chain; None when it does not say."""
    watch = Watch(_PATIENCE, timer)
    async with AsyncExitStack() as stack:
        stack.callback(watch.close)
        exchange = _question(route, watch, stack)
        watch.start("total")
        try:
            async with watch.guard():
                reply = await route.asking(exchange)
                pieces, ended = await read_up_to(_READ_AT_MOST, reply.body)
        except Fault:
            return None
        if reply.status != 200 or not ended:
            return None
    data = decode(b"".join(pieces)).get("data")
    if not isinstance(data, list):
        return None
    return tuple(m for m in data if isinstance(m, dict) and isinstance(m.get("id"), str))


def _question(route: Route, watch: Watch, stack: AsyncExitStack) -> Exchange:
    headers: CIMultiDict[str] = CIMultiDict(
        {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": OWN_AGENT}
    )
    return Exchange(
        inbound=Inbound("GET", "/models", "", CIMultiDictProxy(headers), ""),
        route=route.name,
        headers=headers.copy(),
        credentials=CIMultiDict(),
        body=None,
        query="",
        watch=watch,
        stack=stack,
    )


def _seen(route: Route, model: dict[str, Any]) -> str:
    """What the upstream would see of a listed model that a client asks for."""
    name: str = model["id"]
    for middleware in route.middlewares:
        if isinstance(middleware, PrefixRewrite):
            name = middleware.rewrite(name)
    return name


def _model(name: str, owner: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": owner}


def _encode(value: dict[str, Any]) -> bytes:
    return msgspec.json.encode(value) + b"\n"
