"""Certificates for a test: an authority of its own, and what it has signed. Made by openssl."""

from __future__ import annotations

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

_NEW = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-days", "90")


@dataclass(frozen=True)
class Certificate:
    """The files of one certificate, and of the key that belongs to it."""

    cert: Path
    key: Path

    def server_context(self) -> ssl.SSLContext:
        """What a simulated provider listens with."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.cert, self.key)
        return context

    def client_context(self, own: Certificate | None = None) -> ssl.SSLContext:
        """What a client that trusts this one connects with; `own` is what it shows of itself."""
        context = ssl.create_default_context(cafile=str(self.cert))
        if own is not None:
            context.load_cert_chain(own.cert, own.key)
        return context


def ending_in(certificate: Certificate, days: int) -> Certificate:
    """The same, signed anew to end in so many days; below 0 it has ended."""
    files = ("-in", str(certificate.cert), "-signkey", str(certificate.key), "-out", str(certificate.cert))
    subprocess.run(("openssl", "x509", *files, "-days", str(days)), check=True, capture_output=True)
    return certificate


def self_signed(folder: Path, name: str = "localhost", *, passphrase: str | None = None) -> Certificate:
    """A certificate for the host `name` that signs itself, so that it is its own authority."""
    made = Certificate(folder / f"{name}.crt", folder / f"{name}.key")
    subject = ("-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}")
    guard = ("-nodes",) if passphrase is None else ("-passout", f"pass:{passphrase}")
    command = (*_NEW, "-keyout", str(made.key), "-out", str(made.cert), *subject, *guard)
    subprocess.run(command, check=True, capture_output=True)
    return made
