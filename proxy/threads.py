"""Work that may block, done beside the event loop, and given up on when it never ends.

The thread is a daemon: what hangs in it, a network file system or somebody's module, keeps neither the loop
nor the end of the program waiting.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def in_thread(work: Callable[[], T], within: float) -> T:
    """What `work` returns or raises. Raises TimeoutError after `within` seconds; it goes on unheard then."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def tell(result: T | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]  # there is an error, or else a result

    def run() -> None:
        result: T | None = None
        error: BaseException | None = None
        try:
            result = work()
        except BaseException as raised:
            error = raised
        if not loop.is_closed():
            loop.call_soon_threadsafe(tell, result, error)

    threading.Thread(target=run, daemon=True).start()
    async with asyncio.timeout(within):
        return await done
