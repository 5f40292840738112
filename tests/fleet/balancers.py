"""The real HAProxy and the real nginx, with the configurations of docs/fleet.md.

Only the addresses are others, since a test has one machine, and nginx gets a folder for what it stores.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.documents import blocks
from tests.support.redis import free_port

HAPROXY = ("haproxy", "-db", "-f")
NGINX = ("nginx", "-g", "daemon off;", "-e", "stderr", "-c")
_NGINX_STORES = tuple(f"{what}_temp_path" for what in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))


def shown(language: str) -> str:
    """The one block of that language in the document."""
    (text,) = [text for place, text in blocks(language) if place.startswith("fleet.md")]
    return text


def written(folder: Path, name: str, port: int, machines: Sequence[int]) -> Path:
    """The configuration of `haproxy` or `nginx`, for these ports of this machine."""
    text = shown(name)
    for address, here in (
        ("10.0.0.2:8080", port),
        *zip(("10.0.0.11:8080", "10.0.0.12:8080"), machines, strict=True),
    ):
        assert text.count(address) == 1, address
        text = text.replace(address, f"127.0.0.1:{here}")
    if name == "nginx":
        stores = "".join(f"    {one} {folder / one};\n" for one in _NGINX_STORES)
        text = f"pid {folder / 'nginx.pid'};\n" + text.replace(
            "http {\n", f"http {{\n    access_log off;\n{stores}", 1
        )
    assert "10.0.0." not in text
    file = folder / f"{name}.conf"
    file.write_text(text)
    return file


@asynccontextmanager
async def balancer(folder: Path, name: str, machines: Sequence[int]) -> AsyncIterator[int]:
    """Its port; it is there, and knows that both machines are, too."""
    port = free_port()
    file = written(folder, name, port, machines)
    log = folder / f"{name}.log"
    with log.open("ab") as out:
        process = await asyncio.create_subprocess_exec(
            *(HAPROXY if name == "haproxy" else NGINX), str(file), stdout=out, stderr=out
        )
    try:
        async with asyncio.timeout(20):
            while not await _ready(port):
                assert process.returncode is None, log.read_text()
                await asyncio.sleep(0.02)
        yield port
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _ready(port: int) -> bool:
    status, _ = await get(port, "/readyz", "127.0.0.1")
    return status == 200


async def get(port: int, path: str, source: str) -> tuple[int, bytes]:
    """A GET from that address of this machine; 0 if nobody answers."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
    except OSError:
        return 0, b""
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: fleet\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read()
    except OSError:
        return 0, b""
    finally:
        writer.close()
    found = re.match(rb"HTTP/1\.[01] (\d{3})", answer)
    return (int(found[1]), answer) if found else (0, answer)
