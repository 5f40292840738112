"""TLS on both sides: providers are who their certificates say, and listeners show the operator's."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.certificates import Certificate, self_signed
from tests.support.http_proxy import HttpProxy
from tests.support.process import ROOT, Tidegate, write_table
from tests.support.raw import RawClient, header, post
from tests.support.upstream import DONE, ScriptedUpstream, Seen, Wire, chat, sse_event

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")

ANSWER = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n{"tls": true}'
ASK = post("/up/v1/chat/completions", {"model": "x"})
DEMO = {"demo": {"upstream": "demo", "middlewares": ["prefix_rewrite"]}}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return self_signed(tmp_path_factory.mktemp("tls"))


@asynccontextmanager
async def provider(certificate: Certificate) -> AsyncIterator[int]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(ANSWER)
            await writer.drain()
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=certificate.server_context())
    async with server:
        yield server.sockets[0].getsockname()[1]


async def asked(gate: Tidegate, request: bytes = ASK) -> tuple[int, str | None]:
    """Status and error code of the one answer."""
    async with RawClient(gate.port) as client:
        await client.send(request)
        status, headers = await client.read_head()
    return status, header(headers, "x-tidegate-error")


@pytest.mark.parametrize(
    ("host", "trusted", "status", "code"),
    [
        ("localhost", True, 200, None),
        ("localhost", False, 502, "upstream_connect"),
        ("127.0.0.1", True, 502, "upstream_connect"),
    ],
    ids=["trusted", "unknown issuer", "another name"],
)
async def test_a_provider_is_who_its_certificate_says_or_gets_nothing(
    tmp_path: Path, certificate: Certificate, host: str, trusted: bool, status: int, code: str | None
) -> None:
    async with provider(certificate) as port:
        routes = {
            "up": {"upstream": f"https://{host}:{port}/v1", "middlewares": [{"key": {"env": "UP_KEY"}}]}
        }
        env = {"UP_KEY": "canary-of-the-tls-test"}
        if trusted:
            env["SSL_CERT_FILE"] = str(certificate.cert)
        async with Tidegate(write_table(tmp_path, routes), env=env) as gate:
            assert await asked(gate) == (status, code)


@pytest.mark.parametrize(
    ("host", "tls", "expected"),
    [
        ("localhost", {"ca": "localhost.crt"}, (200, None)),
        ("127.0.0.1", {"ca": "localhost.crt"}, (502, "upstream_connect")),
        ("localhost", {"ca": "other.crt"}, (502, "upstream_connect")),
        ("127.0.0.1", {"verify": False}, (200, None)),
        ("localhost", {}, (502, "upstream_connect")),
    ],
    ids=["its authority", "another name", "another authority", "nothing verified", "the machine's own"],
)
async def test_a_route_says_whom_it_trusts(
    tmp_path: Path, host: str, tls: dict[str, Any], expected: tuple[int, str | None]
) -> None:
    certificate = self_signed(tmp_path)
    self_signed(tmp_path, "other")
    async with provider(certificate) as port:
        routes = {"up": {"upstream": f"https://{host}:{port}/v1", "tls": tls}}
        async with Tidegate(write_table(tmp_path, routes)) as gate:
            assert await asked(gate) == expected


async def test_an_authority_of_a_route_takes_the_place_of_the_machines(
    tmp_path: Path, certificate: Certificate
) -> None:
    self_signed(tmp_path, "other")
    async with provider(certificate) as port:
        routes = {"up": {"upstream": f"https://localhost:{port}/v1", "tls": {"ca": "other.crt"}}}
        env = {"SSL_CERT_FILE": str(certificate.cert)}
        async with Tidegate(write_table(tmp_path, routes), env=env) as gate:
            assert await asked(gate) == (502, "upstream_connect")


@pytest.mark.parametrize("login", [None, "me:p@ss:wörd"])
async def test_a_proxy_tunnels_to_a_provider_with_tls_and_reads_nothing(
    tmp_path: Path, certificate: Certificate, login: str | None
) -> None:
    user = "" if login is None else "me:p%40ss%3Aw%C3%B6rd@"
    async with provider(certificate) as port, HttpProxy(port, login) as proxy:
        route = {
            "upstream": "https://localhost:9/v1",
            "proxy": "${UP_PROXY}",
            "tls": {"ca": str(certificate.cert)},
            "middlewares": [{"key": {"env": "UP_KEY"}}],
        }
        env = {"UP_KEY": "canary-of-the-proxy", "UP_PROXY": f"http://{user}127.0.0.1:{proxy.port}"}
        async with Tidegate(write_table(tmp_path, {"up": route}), env=env) as gate:
            assert await asked(gate) == (200, None)

    assert proxy.asked == ["CONNECT localhost:9 HTTP/1.1"]
    assert "canary" not in repr(proxy.heads)


async def test_a_proxy_forwards_what_goes_to_a_provider_without_tls(tmp_path: Path) -> None:
    async with ScriptedUpstream(chat("by proxy")) as upstream, HttpProxy(upstream.port, "me:pw") as proxy:
        route = {"upstream": "http://provider.test/v1", "proxy": f"http://me:pw@127.0.0.1:{proxy.port}"}
        async with Tidegate(write_table(tmp_path, {"up": route})) as gate:
            assert await asked(gate) == (200, None)

    assert proxy.asked == ["POST http://provider.test/v1/chat/completions HTTP/1.1"]
    assert upstream.seen[0].header("Host") == "provider.test"
    assert upstream.seen[0].header("Proxy-Authorization") is None


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_that_refuses_is_no_connection(tmp_path: Path, scheme: str) -> None:
    async with HttpProxy(9, "somebody:else") as proxy:
        route = {"upstream": f"{scheme}://provider.test/v1", "proxy": f"http://127.0.0.1:{proxy.port}"}
        async with Tidegate(write_table(tmp_path, {"up": route})) as gate:
            assert await asked(gate) == (502, "upstream_connect")
            told = await gate.wait_event("fault")

    assert told["message"] == "The proxy of 'up' refused the connection (407)."


async def test_a_proxy_that_is_not_there_is_no_connection(tmp_path: Path) -> None:
    route = {"upstream": "https://provider.test/v1", "proxy": "http://127.0.0.1:9"}
    async with Tidegate(write_table(tmp_path, {"up": route})) as gate:
        assert await asked(gate) == (502, "upstream_connect")


def listening(folder: Path, certificate: Certificate, **tls: str) -> Path:
    files = {"cert": str(certificate.cert), "key": str(certificate.key)}
    return write_table(folder, DEMO, server={"listen": ["https://127.0.0.1:0"], "tls": files | tls})


async def test_a_listener_speaks_tls_1_2_and_newer_with_the_operators_certificate(
    tmp_path: Path, certificate: Certificate
) -> None:
    question = {"model": "demo/echo", "messages": [{"role": "user", "content": "hello"}], "stream": True}
    async with Tidegate(listening(tmp_path, certificate)) as gate:
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = certificate.client_context()
            context.minimum_version = context.maximum_version = version
            async with RawClient(gate.port, tls=context) as client:
                for _ in range(2):
                    await client.send(post("/v1/chat/completions", question))
                    status, _ = await client.read_head()
                    body = await client.read_body()
                    assert status == 200 and b"hello" in body and body.endswith(b"data: [DONE]\n\n")
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        old.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(ssl.SSLError):
            async with RawClient(gate.port, tls=old):
                raise AssertionError("TLS 1.1 was accepted")

    assert gate.address().startswith("https://127.0.0.1:")


async def test_a_listener_with_client_ca_admits_only_clients_that_it_signed(
    tmp_path: Path, certificate: Certificate
) -> None:
    staff, stranger = self_signed(tmp_path, "staff"), self_signed(tmp_path, "stranger")
    question = post("/v1/chat/completions", {"model": "demo/echo", "messages": []})
    async with Tidegate(listening(tmp_path, certificate, client_ca=str(staff.cert))) as gate:
        async with RawClient(gate.port, tls=certificate.client_context(staff)) as client:
            await client.send(question)
            status, _ = await client.read_head()
            await client.read_body()
        refused = 0
        for own in (stranger, None):
            try:
                async with RawClient(gate.port, tls=certificate.client_context(own)) as client:
                    await client.send(question)
                    await client.read_head()
            except (ssl.SSLError, ConnectionError, asyncio.IncompleteReadError):
                refused += 1

        told = await gate.wait_event("tls_handshake_failed")

    assert (status, refused) == (200, 2)
    assert told["level"] == "warning" and "CERTIFICATE" in told["reason"]


def flooded(folder: Path, certificate: Certificate, upstream: str) -> Path:
    """A TLS listener, and a route whose `idle` is shorter than its clients take."""
    files = {"cert": str(certificate.cert), "key": str(certificate.key)}
    routes = {"up": {"upstream": upstream, "middlewares": ["prefix_rewrite", {"timeout": {"idle": "700ms"}}]}}
    return write_table(folder, routes, server={"listen": ["https://127.0.0.1:0"], "tls": files})


FLOOD = post("/v1/chat/completions", {"model": "up/x", "messages": [], "stream": True})


async def test_a_client_that_takes_nothing_over_tls_is_cut_by_idle(
    tmp_path: Path, certificate: Certificate
) -> None:
    async def behave(_seen: Seen, wire: Wire) -> None:
        await wire.head(200, {"Content-Type": "text/event-stream"})
        while True:
            await wire.chunk(sse_event({"choices": [{"index": 0, "delta": {"content": "x" * 60_000}}]}))

    async with ScriptedUpstream(behave) as upstream:
        async with Tidegate(flooded(tmp_path, certificate, upstream.url)) as gate:
            context = certificate.client_context()
            async with RawClient(gate.port, receive_buffer=4096, tls=context) as client:
                await client.send(FLOOD)
                _, headers = await client.read_head()
                await upstream.wait_gone(1, within=10)
                entry = await gate.log_entry(headers)

    assert (entry["outcome"], entry["error"]) == ("timeout", "timeout_idle")


async def test_a_client_that_is_slow_over_tls_but_takes_bytes_is_not_cut_by_idle(
    tmp_path: Path, certificate: Certificate
) -> None:
    """It takes a little at a time for longer than `idle`, and the rest at once."""

    async def behave(_seen: Seen, wire: Wire) -> None:
        await wire.head(200, {"Content-Type": "text/event-stream"})
        for _ in range(200):
            await wire.chunk(sse_event({"choices": [{"index": 0, "delta": {"content": "x" * 60_000}}]}))
        await wire.chunk(sse_event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}) + DONE)
        await wire.finish()

    async with ScriptedUpstream(behave) as upstream:
        async with Tidegate(flooded(tmp_path, certificate, upstream.url)) as gate:
            end = await asyncio.get_running_loop().run_in_executor(None, dawdle, gate.port, certificate)
        (entry,) = await gate.wait_log(1)

    assert end == b"0\r\n\r\n"
    assert entry["outcome"] == "ok"
    assert entry["duration_ms"] > 3000


def dawdle(port: int, certificate: Certificate) -> bytes:
    """Read slowly for three seconds and then to the end, with no buffers but OpenSSL's; the last bytes."""
    with socket.socket() as plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plain.settimeout(10)
        plain.connect(("127.0.0.1", port))
        with certificate.client_context().wrap_socket(plain, server_hostname="localhost") as client:
            client.sendall(FLOOD)
            began, last = time.monotonic(), b""
            while not last.endswith(b"0\r\n\r\n"):
                piece = client.recv(4096)
                assert piece, "the stream was cut"
                last = (last + piece)[-5:]
                if time.monotonic() - began < 3.0:
                    time.sleep(0.02)
    return last


async def test_the_last_bytes_over_tls_wait_for_a_client_that_pauses(
    tmp_path: Path, certificate: Certificate
) -> None:
    """The answer ends with its connection, and most of it waits below TLS when that is closed."""
    body = os.urandom(900_000)

    async def behave(_seen: Seen, wire: Wire) -> None:
        await wire.head(200, {"Content-Type": "application/octet-stream", "Content-Length": str(len(body))})
        await wire.chunk(body)
        await wire.finish()

    request = FLOOD.replace(b"HTTP/1.1\r\n", b"HTTP/1.1\r\nConnection: close\r\n", 1)
    async with ScriptedUpstream(behave) as upstream:
        routes = {"up": {"upstream": upstream.url, "middlewares": ["prefix_rewrite"]}}
        files = {"cert": str(certificate.cert), "key": str(certificate.key)}
        table = write_table(tmp_path, routes, server={"listen": ["https://127.0.0.1:0"], "tls": files})
        async with Tidegate(table) as gate:
            port, loop = gate.port, asyncio.get_running_loop()
            got = await loop.run_in_executor(None, pause, port, certificate, request)

    assert got.partition(b"\r\n\r\n")[2] == body


def pause(port: int, certificate: Certificate, request: bytes) -> bytes:
    """Ask, look away for three seconds, and read to the end."""
    with socket.socket() as plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plain.settimeout(10)
        plain.connect(("127.0.0.1", port))
        with certificate.client_context().wrap_socket(plain, server_hostname="localhost") as client:
            client.sendall(request)
            time.sleep(3)
            pieces = []
            while piece := client.recv(65536):
                pieces.append(piece)
    return b"".join(pieces)


async def test_what_is_no_tls_on_a_tls_listener_harms_nobody(
    tmp_path: Path, certificate: Certificate
) -> None:
    async with Tidegate(listening(tmp_path, certificate)) as gate:
        async with RawClient(gate.port) as client:
            await client.send(post("/v1/chat/completions", {"model": "demo/echo"}))
            assert b"HTTP/" not in await client.read_until_closed()
        async with RawClient(gate.port, tls=certificate.client_context()) as client:
            await client.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await client.read_head())[0] == 200


def test_a_certificate_that_cannot_be_used_is_told_at_its_line_and_nothing_is_served(
    tmp_path: Path, certificate: Certificate
) -> None:
    other = self_signed(tmp_path, "other")
    path = listening(tmp_path, certificate, key=str(other.key))
    place = next(n for n, line in enumerate(path.read_text().splitlines(), 1) if '"key"' in line)
    for command in ("serve", "check"):
        ran = subprocess.run(
            [sys.executable, "-m", "proxy", command, "-c", str(path)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        assert ran.returncode == 1
        assert f"{path}:{place}:" in ran.stdout + ran.stderr
        assert f"{str(other.key)!r} is the key of another certificate" in ran.stdout + ran.stderr
        assert "Traceback" not in ran.stderr
