"""What each field of a table is for, in the operator's words: the descriptions of the JSON Schema.

Fields of middlewares are named by middleware and option. A field that is not listed has none.
"""

from __future__ import annotations

TABLE: dict[str, dict[str, str]] = {
    "Table": {
        "version": "The format of this file; always 1.",
        "server": "The listeners, and the limits that every client meets.",
        "middlewares": "Once for each request, around all attempts; outermost first.",
        "routes": "The providers by name; the name is also the model prefix: NAME/MODEL.",
        "models": "Names that clients may use besides ROUTE/MODEL: an alias, or a ladder tried in order.",
        "default_route": "The route for a model that nothing else claims.",
    },
    "Server": {
        "listen": "Where clients connect: host:port, or unix:/path.",
        "admin": "Where health, metrics and status are; null switches them off.",
        "workers": "Processes that share the listeners; auto is one for each core.",
        "max_body": "The largest body that is held to be read, decompressed.",
        "max_upload": "The largest body of any other kind, which is streamed through.",
        "max_connections": "Client connections at one time.",
        "timeouts": "How long slow or silent clients are waited for.",
        "drain_delay": "After SIGTERM, how long to go on answering 503 before the listeners close.",
        "drain_timeout": "After SIGTERM, how long exchanges in flight may finish.",
        "trusted_proxies": "Networks, or unix, whose X-Forwarded-For is believed.",
        "tls": "Certificates for https:// listeners.",
    },
    "ClientTimeouts": {
        "header": "Until a request's head has come whole.",
        "body_idle": "Between two pieces of a request's body.",
        "keepalive": "Between two requests on one connection.",
    },
    "ListenerTls": {
        "cert": "The file of the certificate and its chain.",
        "key": "The file of the private key.",
        "client_ca": "The file of the authority that clients' certificates must come from.",
    },
    "Route": {
        "upstream": "The provider's URL up to and including /v1; or demo, the embedded model.",
        "middlewares": "For each attempt at this route; outermost first.",
        "explicit_only": "Reached only by a client that names the route.",
        "serves": "Bare model names and globs that the route also claims; * crosses slashes.",
        "list": "What GET /v1/models shows for it: names, or ask for asking the upstream.",
        "proxy": "The URL of an HTTP proxy on the way to the upstream.",
        "tls": "How the upstream's certificate is verified.",
    },
    "UpstreamTls": {
        "ca": "The file of the authority that the upstream's certificate must come from.",
        "verify": "Whether the upstream's certificate is verified at all.",
    },
    "client_keys": {
        "file": "The clients, what each may use, and the hashes of their keys; `tidegate keys` writes it.",
    },
    "prefix_rewrite": {
        "strip": "Taken off the front of the model's name; default: the route's name and a slash.",
        "add": "Put in front of what is left.",
        "map": "Looked up first: a name that is found here is final.",
    },
    "headers": {
        "set": "Headers to set on the request, in any case.",
        "default": "Headers to set where the client sent none.",
        "remove": "Headers to drop from the request; applied first.",
        "response": "Edits of the answer's headers.",
        "user_agent": "pass: the client's own; own: tidegate and its version; or a text.",
        "accept_risk": "Why a fixed User-Agent is sent where the provider's terms speak of it.",
    },
    "ResponseOptions": {
        "set": "Headers to set on the answer.",
        "remove": "Headers to drop from the answer; applied first.",
    },
    "key": {
        "env": "The environment variable that holds the key; looked at first.",
        "credential": "The systemd credential that holds it; looked at second.",
        "file": "The private file that holds it; looked at last.",
        "header": "auto: x-api-key on messages, else Authorization; or a header's name.",
        "expect": "What the key must begin with.",
        "pass": "Send the client's own key up instead.",
    },
    "token_floor": {
        "min": "Raise the client's token ceiling to at least this.",
        "when_absent": "Tokens to ask for when the client names no ceiling, or leave.",
        "cap": "Lower the client's token ceiling to at most this.",
    },
    "timeout": {
        "connect": "Until the connection stands: DNS, TCP and TLS.",
        "first_byte": "From the request's last byte to the answer's head.",
        "first_token": "From the request's last byte to a stream's first content.",
        "idle": "Between two bytes of the answer.",
        "total": "From entering the route to the last byte.",
    },
    "retry": {
        "attempts": "Calls in all, the first included.",
        "when": "What is worth another call; a clock that ran out and a final 4xx never are.",
        "backoff": "How long to wait where the provider does not say: anything up to a bound that doubles.",
        "retry_after_max": "A provider that asks for a longer wait is not waited for.",
    },
    "Backoff": {
        "initial": "The bound of the first wait.",
        "max": "The bound of every wait.",
    },
    "breaker": {
        "failures": "So many in a row open it.",
        "cooldown": "How long it stays open before one request is let through.",
    },
    "stream": {
        "commit": "When the answer's first byte is sent: headers, first_event, first_token or complete.",
        "keepalive": "After how long without a byte a stream's client gets a comment.",
        "hold": "The most that is held back; past it the answer is committed.",
    },
    "concurrency": {
        "limit": "Exchanges in flight on the route at one time, each held to its last byte.",
        "queue": "How many more may wait; the next one is 429 queue_full.",
        "wait": "How long one waits before it is 429 queue_full.",
    },
    "rate_limit": {
        "requests": "So many requests in a time: a bucket of that size, which refills evenly.",
        "tokens": "So many tokens in a time, prompts and answers together.",
        "concurrent": "Exchanges at one time, each held to its last byte.",
        "per": "Whom the limits are for: each client, each route, or each address.",
        "store": "Where they are counted: in this process's memory, or in a Redis that several share.",
        "on_store_failure": "Without the Redis: local, each process counts for itself; refuse, all get 429.",
    },
    "params": {
        "drop": "Top-level body fields to take out.",
        "rename": "Top-level body fields to call otherwise.",
        "default": "Top-level body fields to add where there is none.",
        "set": "Top-level body fields to set in any case.",
    },
    "usage": {
        "include_usage": "Ask streams for their usage where the client does not.",
    },
}
