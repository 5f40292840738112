"""Certificates and the keys that belong to them: files turned into what TLS needs, or a word on why not.

TLS 1.2 is the least on both sides (RFC 8996). The listeners speak HTTP/1.1 and say so (ALPN, RFC 7301).
A key with a passphrase is refused: OpenSSL would ask for it on the terminal and wait.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from config.files import Files
from config.schema import ListenerTls, UpstreamTls
from config.wording import quoted

_ALPN = ["http/1.1"]
_LARGEST = 4 * 1024 * 1024
_NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME of OpenSSL's x509_vfy.h, which `ssl` has no name for."""


class UnusableCertificate(ValueError):
    """A file that cannot be used. `field` is the option that names it; the message says what to do."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def listener_context(tls: ListenerTls, files: Files) -> ssl.SSLContext:
    """For a server. Raises UnusableCertificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(_ALPN)
    cert, key = _read("cert", tls.cert, files), _read("key", tls.key, files)
    try:
        with _as_file(cert) as cert_file, _as_file(key) as key_file:
            context.load_cert_chain(cert_file, key_file, password=_no_passphrase)
    except OSError as error:
        raise _unusable_pair(tls, files, error) from None
    if tls.client_ca is not None:
        _trust(context, "client_ca", tls.client_ca, files)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def upstream_context(tls: UpstreamTls, files: Files) -> ssl.SSLContext:
    """For a client; with `ca` nothing but that is trusted. Raises UnusableCertificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(_ALPN)
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif tls.ca is not None:
        _trust(context, "ca", tls.ca, files)
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    return context


def validity_of(tls: ListenerTls, files: Files) -> tuple[float, float] | None:
    """From when to when the certificate of a pair is valid, in seconds since 1970.

    `ssl` tells the dates of no certificate but one that was shown to it. So it is shown: in a handshake in
    memory, to a client that trusts it and does not look at the time. None if that comes to nothing.
    """
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | _NO_CHECK_TIME
    try:
        cert, key = _read("cert", tls.cert, files), _read("key", tls.key, files)
        with _as_file(cert) as cert_file, _as_file(key) as key_file:
            server.load_cert_chain(cert_file, key_file, password=_no_passphrase)
            client.load_verify_locations(cert_file)
        shown = _seen(server, client)
        dates = shown["notBefore"], shown["notAfter"]
        return ssl.cert_time_to_seconds(dates[0]), ssl.cert_time_to_seconds(dates[1])
    except (OSError, KeyError, ValueError):
        return None


def _seen(server: ssl.SSLContext, client: ssl.SSLContext) -> dict[str, str]:
    """What a client is shown of a server's certificate. Raises SSLError if they cannot agree."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(down, up)
    answering = server.wrap_bio(up, down, server_side=True)
    for side in (asking, answering, asking):
        with suppress(ssl.SSLWantReadError):
            side.do_handshake()
    found: Any = asking.getpeercert()
    return found or {}


def _read(field: str, name: str, files: Files) -> bytes:
    """What is in the file; OpenSSL's own word for a file that is not there names no file."""
    try:
        data = files.read(name, _LARGEST)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise UnusableCertificate(field, f"{_shown(name, files)} cannot be read: {reason or error}") from None
    if len(data) > _LARGEST:
        raise UnusableCertificate(field, f"{_shown(name, files)} is larger than 4 MiB: is it a certificate?")
    return data


def _shown(name: str, files: Files) -> str:
    return quoted(str(files.base / name))


@contextmanager
def _as_file(data: bytes) -> Iterator[str]:
    """A name under which OpenSSL can read what was read already; nothing of it reaches a disk."""
    descriptor = os.memfd_create("certificate", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, data)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _trust(context: ssl.SSLContext, field: str, name: str, files: Files) -> None:
    if not _holds_certificates(context, _read(field, name, files)):
        shown = _shown(name, files)
        raise UnusableCertificate(
            field, f"{shown} holds no certificates: write a file of them in PEM (BEGIN CERTIFICATE)"
        )


def _holds_certificates(context: ssl.SSLContext, data: bytes) -> bool:
    try:
        with _as_file(data) as file:
            context.load_verify_locations(file)
    except OSError:  # of which ssl.SSLError is one
        return False
    return True


def _unusable_pair(tls: ListenerTls, files: Files, error: OSError) -> UnusableCertificate:
    cert, key = _shown(tls.cert, files), _shown(tls.key, files)
    if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
        return UnusableCertificate("key", f"{key} is the key of another certificate")
    if not _holds_certificates(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), _read("cert", tls.cert, files)):
        return UnusableCertificate("cert", f"{cert} holds no certificate in PEM (BEGIN CERTIFICATE)")
    return UnusableCertificate("key", f"{key} holds no key in PEM without a passphrase")


def _no_passphrase() -> str:
    return ""
