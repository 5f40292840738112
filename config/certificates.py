"""Certificates and the keys that belong to them: files turned into what TLS needs, or a word on why not.

TLS 1.2 is the least on both sides (RFC 8996). The listeners speak HTTP/1.1 and say so (ALPN, RFC 7301).
A key with a passphrase is refused: OpenSSL would ask for it on the terminal and wait.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from config.files import read_regular
from config.schema import ListenerTls, UpstreamTls
from config.wording import quoted

_ALPN = ["http/1.1"]


class UnusableCertificate(ValueError):
    """A file that cannot be used. `field` is the option that names it; the message says what to do."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def listener_context(tls: ListenerTls, base: Path) -> ssl.SSLContext:
    """For a server; relative files are looked for in the folder `base`. Raises UnusableCertificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(_ALPN)
    cert, key = _readable("cert", base / tls.cert), _readable("key", base / tls.key)
    try:
        context.load_cert_chain(cert, key, password=_no_passphrase)
    except OSError as error:
        raise _unusable_pair(cert, key, error) from None
    if tls.client_ca is not None:
        _trust(context, "client_ca", base / tls.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def upstream_context(tls: UpstreamTls, base: Path) -> ssl.SSLContext:
    """For a client; with `ca` nothing but that is trusted. Raises UnusableCertificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(_ALPN)
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif tls.ca is not None:
        _trust(context, "ca", base / tls.ca)
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    return context


def _readable(field: str, path: Path) -> Path:
    """The path again; OpenSSL's own word for a file that is not there names no file."""
    try:
        read_regular(path, 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise UnusableCertificate(field, f"{quoted(str(path))} cannot be read: {reason or error}") from None
    return path


def _trust(context: ssl.SSLContext, field: str, path: Path) -> None:
    if not _holds_certificates(context, _readable(field, path)):
        message = (
            f"{quoted(str(path))} holds no certificates: write a file of them in PEM (BEGIN CERTIFICATE)"
        )
        raise UnusableCertificate(field, message)


def _holds_certificates(context: ssl.SSLContext, path: Path) -> bool:
    try:
        context.load_verify_locations(path)
    except OSError:  # of which ssl.SSLError is one
        return False
    return True


def _unusable_pair(cert: Path, key: Path, error: OSError) -> UnusableCertificate:
    if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
        return UnusableCertificate("key", f"{quoted(str(key))} is the key of another certificate")
    if not _holds_certificates(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), cert):
        message = f"{quoted(str(cert))} holds no certificate in PEM (BEGIN CERTIFICATE)"
        return UnusableCertificate("cert", message)
    return UnusableCertificate("key", f"{quoted(str(key))} holds no key in PEM without a passphrase")


def _no_passphrase() -> str:
    return ""
