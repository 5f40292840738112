"""Middlewares folded into one handler, once for each route when the table is loaded.

The first listed is the outermost: of `[a, b]`, `a` sees the request first and the reply last.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence

from middlewares.exchange import Exchange, Handler, Middleware, Reply


def compile_chain(middlewares: Sequence[Middleware], innermost: Handler) -> Handler:
    """One handler that runs `middlewares` around `innermost`."""
    handler = innermost
    for middleware in reversed(middlewares):
        handler = _link(middleware, handler)
    return handler


def _link(middleware: Middleware, call_next: Handler) -> Handler:
    # A plain function that returns the coroutine: an `async def` here would add a frame a layer.
    def linked(exchange: Exchange) -> Awaitable[Reply]:
        return middleware(exchange, call_next)

    return linked
