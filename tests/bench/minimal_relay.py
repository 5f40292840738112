"""The least that relays on aiohttp: the yardstick. No routing, keys, clocks, log or honest end.

`minimal_relay.py PORT UPSTREAM_PORT`
"""

import asyncio
import resource
import sys

import aiohttp
import uvloop
from aiohttp import web

NOT_UP = {"Host", "Content-Length", "Connection", "Authorization"}
NOT_DOWN = {"Transfer-Encoding", "Connection", "Date"}


async def main(port: int, upstream: str) -> None:
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=None),
        auto_decompress=False,
    ) as session:

        async def relay(request: web.Request) -> web.StreamResponse:
            body = await request.read()
            headers = [(name, value) for name, value in request.headers.items() if name not in NOT_UP]
            async with session.request(
                request.method, upstream + request.path_qs, headers=headers, data=body or None
            ) as answer:
                response = web.StreamResponse(status=answer.status)
                response.headers.extend(item for item in answer.headers.items() if item[0] not in NOT_DOWN)
                await response.prepare(request)
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
                await response.write_eof()
                return response

        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", relay)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, backlog=4096).start()
        await asyncio.Event().wait()


if __name__ == "__main__":
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    uvloop.run(main(int(sys.argv[1]), f"http://127.0.0.1:{sys.argv[2]}"))
