"""The rules about the ways to and from tidegate: certificates of listeners, `proxy` and `tls` of routes."""

from __future__ import annotations

import math
import stat
import time
from pathlib import Path
from urllib.parse import urlsplit

from config.certificates import UnusableCertificate, listener_context, upstream_context, validity_of
from config.files import Files
from config.report import Place, Report
from config.schema import ListenerTls, Route, Table
from config.upstreams import parse_proxy, parse_upstream
from config.wording import quoted

_SOON_S = 30 * 86400.0


def judge_transport(table: Table, routes: dict[str, Route], report: Report, files: Files | None) -> None:
    """Report what is wrong; `files` None means that certificates are not to be looked at."""
    if files is not None:
        _listener_files(table, report, files)
    for name, route in routes.items():
        if ("routes", name, "upstream") not in report.broken:
            _tls(name, route, report, files)
        if route.proxy is not None:
            _proxy(("routes", name, "proxy"), route, report)


def _listener_files(table: Table, report: Report, files: Files) -> None:
    tls = table.server.tls
    if tls is None:
        return
    try:
        listener_context(tls, files)
    except UnusableCertificate as error:
        _unusable(("server", "tls", error.field), error, report)
        return
    _dates(tls, files, report)
    _mode(("server", "tls", "key"), files.base / tls.key, report)


def _mode(place: Place, path: Path, report: Report) -> None:
    """A group may read it (Debian has one for that, ssl-cert); everybody may not."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return  # gone since it was read
    if mode & stat.S_IROTH:
        shown = report.shown(place, str(path))
        message = f"everybody on this machine can read {shown}: chmod 600, or 640 with a group of its own"
        report.warn_at(place, "tls-key-mode", message)


def _dates(tls: ListenerTls, files: Files, report: Report) -> None:
    """A certificate that has ended keeps nobody from serving; its clients say no, and loudly."""
    place: Place = ("server", "tls", "cert")
    shown = report.shown(place, str(files.base / tls.cert))
    begins, ends = validity_of(tls, files) or (0.0, math.inf)
    left = ends - time.time()
    if left <= 0:
        message = f"{shown} has expired, on {_day(ends)}: clients refuse it: renew it"
        report.warn_at(place, "certificate-expired", message)
    elif begins > time.time():
        message = f"{shown} is valid from {_day(begins)} on only: clients refuse it until then"
        report.warn_at(place, "certificate-not-yet-valid", message)
    elif left < _SOON_S:
        report.warn_at(place, "certificate-expiring", f"{shown} expires on {_day(ends)}: renew it")


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))


def _tls(name: str, route: Route, report: Report, files: Files | None) -> None:
    place: Place = ("routes", name, "tls")
    if route.tls is None:
        return
    if not _is_https(route.upstream):
        message = f"the route {quoted(name)} has tls, but its upstream is not https://: nothing is verified"
        report.add(report.mark(place), "warning", "tls-unused", message)
    elif not route.tls.verify:
        message = f"the route {quoted(name)} sends keys and prompts to whoever answers: verify is false"
        report.add(report.mark((*place, "verify")), "warning", "tls-unverified", message)
    if files is not None:
        try:
            upstream_context(route.tls, files)
        except UnusableCertificate as error:
            _unusable((*place, error.field), error, report)


def _unusable(place: Place, error: UnusableCertificate, report: Report) -> None:
    message = f"{quoted(report.sources[place])} cannot be used" if place in report.sources else str(error)
    report.error_at(place, "certificate", message)


def _is_https(upstream: str) -> bool:
    try:
        return parse_upstream(upstream).scheme == "https"
    except ValueError:
        return False


def _proxy(place: Place, route: Route, report: Report) -> None:
    text = route.proxy or ""
    try:
        parse_proxy(text)
    except ValueError as error:
        report.error_at(place, "proxy-url", f"proxy: {error}")
        return
    if route.upstream == "demo":
        message = "the demo is embedded: no proxy is on the way to it"
        report.add(report.mark(place), "warning", "proxy-unused", message)
    elif urlsplit(text).password and place not in report.sources:
        message = (
            'the password of this proxy stands in the file: write "${NAME}" and set it in the environment'
        )
        report.add(report.mark(place), "warning", "proxy-password", message)
