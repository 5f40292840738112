"""Providers over TLS: their certificates are verified, always."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.process import Tidegate, write_table
from tests.support.raw import RawClient, header, post

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")

ANSWER = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n{"tls": true}'


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A key and a certificate for localhost that signs itself."""
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    new = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    subprocess.run([*new, "-keyout", key, "-out", cert, *subject], check=True, capture_output=True)
    return key, cert


@asynccontextmanager
async def provider(certificate: tuple[Path, Path]) -> AsyncIterator[int]:
    key, cert = certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(ANSWER)
            await writer.drain()
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


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
    tmp_path: Path, certificate: tuple[Path, Path], host: str, trusted: bool, status: int, code: str | None
) -> None:
    async with provider(certificate) as port:
        routes = {
            "up": {"upstream": f"https://{host}:{port}/v1", "middlewares": [{"key": {"env": "UP_KEY"}}]}
        }
        env = {"UP_KEY": "canary-of-the-tls-test"}
        if trusted:
            env["SSL_CERT_FILE"] = str(certificate[1])
        async with Tidegate(write_table(tmp_path, routes), env=env) as gate, RawClient(gate.port) as client:
            await client.send(post("/up/v1/chat/completions", {"model": "x"}))
            got, headers = await client.read_head()

    assert (got, header(headers, "x-tidegate-error")) == (status, code)
