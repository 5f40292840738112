"""How an exchange begins: what a request says of itself, and the names by which its route is chosen.

The handler and a dry run both go this way, so that what is explained cannot differ from what is served.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import NamedTuple

from multidict import CIMultiDict, CIMultiDictProxy

from middlewares.clocks import Watch
from middlewares.envelope import Envelope
from middlewares.exchange import Body, Exchange, Inbound, Unreadable
from middlewares.faults import ClientFault
from middlewares.handshake import Handshake
from middlewares.multipart import Form
from proxy import listing
from proxy.intake import Incoming, Taken
from proxy.router import Named
from proxy.wire import Target, read_target, upward


class Head(NamedTuple):
    """A request's head: `headers` go up, `credentials` do not, `provider` is of x-tidegate-provider."""

    method: str
    target: Target
    headers: CIMultiDict[str]
    credentials: CIMultiDict[str]
    provider: str | None

    @property
    def listing(self) -> str | None:
        """The model that our own list of models is asked about: empty for all, None for another request."""
        if self.method not in ("GET", "HEAD") or self.target.route is not None or self.provider is not None:
            return None
        return listing.asked_for(self.target.path)


def read_head(request: Incoming) -> Head:
    """Judge and read what a request says before its body. Raises ClientFault."""
    target = read_target(request.method, request.raw_path)
    headers, credentials = upward(request.headers, request.raw_headers)
    return Head(request.method, target, headers, credentials, _provider(request.headers))


def begin(
    request: Incoming, head: Head, taken: Taken, remote: str, watch: Watch, stack: AsyncExitStack
) -> Exchange:
    """The exchange of a request whose body was taken in; `remote` is the client's address."""
    inbound = Inbound(head.method, head.target.path, head.target.query, request.headers, remote)
    return Exchange(
        inbound=inbound,
        route="",
        headers=head.headers,
        credentials=head.credentials,
        body=taken.body,
        query=head.target.query,
        watch=watch,
        stack=stack,
        encoded=taken.encoded,
    )


def names_of(head: Head, body: Body) -> Named:
    """What a request names; the body is read only as far as that needs. Raises ClientFault.

    The body field `provider` is ours, and taken out of it.
    """
    route, provider = head.target.route, head.provider
    model = asked = None
    if isinstance(body, Envelope):
        # An object under that name is somebody else's, and none of our business.
        asked = body.value("provider") if body.holds_text("provider") else None
        if asked is not None:
            body.drop("provider")
        model = _checked(body.value("model")) if "model" in body else None
    elif isinstance(body, Form | Handshake):
        model = None if body.model is None else _checked(body.model)
    elif isinstance(body, Unreadable) and route is None and provider is None:
        raise body.fault
    return Named(route, provider, asked, model)


def _provider(headers: CIMultiDictProxy[str]) -> str | None:
    named = headers.getall("x-tidegate-provider", ())
    if len(named) > 1:
        raise ClientFault(
            "invalid_request", "Two x-tidegate-provider headers were sent.", param="x-tidegate-provider"
        )
    return str(named[0]) if named else None


def _checked(model: object) -> str:
    if not isinstance(model, str) or not model:
        raise ClientFault("invalid_request", "model must be a text that is not empty.", param="model")
    return model
