"""An HTTP proxy on a real socket: tunnels by CONNECT, and takes requests in the absolute form."""

from __future__ import annotations

import asyncio
import base64
from types import TracebackType
from typing import Self

from tests.support import http1


class HttpProxy:
    """Leads everything to one place whatever was asked for; `asked` holds the request lines.

    With a `login` ("user:password") requests without it are refused with 407.
    """

    def __init__(self, port: int, login: str | None = None) -> None:
        self.asked: list[str] = []
        self.heads: list[http1.Headers] = []
        self._to = port
        self._login = None if login is None else "Basic " + base64.b64encode(login.encode()).decode()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        return int(self._server.sockets[0].getsockname()[1])

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await http1.read_head(reader)
            if head is None:
                return
            line, headers = head
            self.asked.append(line)
            self.heads.append(headers)
            if self._login is not None and http1.header(headers, "Proxy-Authorization") != self._login:
                writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
                await writer.drain()
                return
            method, target, version = line.split(" ")
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._to)
            if method == "CONNECT":
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                path = "/" + target.partition("://")[2].partition("/")[2]
                kept = [pair for pair in headers if not pair[0].lower().startswith("proxy-")]
                lines = (f"{method} {path} {version}", *(f"{name}: {value}" for name, value in kept), "", "")
                far_writer.write("\r\n".join(lines).encode("latin-1"))
            await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))
        except ConnectionError:
            pass
        finally:
            writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()
