"""What may be written for each field of a table: the examples of the JSON Schema, which editors offer.

Named as `config.descriptions` names them; `MIDDLEWARES` are whole options by middleware. A test holds every
field to having one, and every example to the schema that it stands in.
"""

from __future__ import annotations

from typing import Any

TABLE: dict[str, dict[str, list[Any]]] = {
    "Table": {
        "version": [1],
        "server": [{"listen": ["127.0.0.1:8080"], "drain_timeout": "15m"}],
        "middlewares": [[{"timeout": {"total": "15m"}}]],
        "routes": [
            {
                "acme": {
                    "upstream": "https://llm.acme.example/v1",
                    "middlewares": ["prefix_rewrite", {"key": {"env": "ACME_API_KEY"}}],
                }
            }
        ],
        "models": [{"fast": "acme/small-model", "review": ["acme/large-model", "other/large-model"]}],
        "default_route": ["acme"],
    },
    "Server": {
        "listen": [["127.0.0.1:8080"], ["https://0.0.0.0:8443", "unix:/run/tidegate.sock?mode=0660"]],
        "admin": ["127.0.0.1:8081", "unix:/run/tidegate/admin.sock", None],
        "workers": [1, "auto"],
        "max_body": ["64MiB"],
        "max_upload": ["2GiB"],
        "max_connections": [10000],
        "timeouts": [{"header": "15s", "body_idle": "30s", "keepalive": "75s"}],
        "drain_delay": ["0s", "5s"],
        "drain_timeout": ["15m"],
        "trusted_proxies": [["10.0.0.0/8"], ["unix"]],
        "tls": [{"cert": "/etc/tidegate/tls.crt", "key": "/etc/tidegate/tls.key"}],
    },
    "ClientTimeouts": {"header": ["15s"], "body_idle": ["30s"], "keepalive": ["75s"]},
    "ListenerTls": {
        "cert": ["/etc/tidegate/tls.crt"],
        "key": ["/etc/tidegate/tls.key"],
        "client_ca": ["/etc/tidegate/ca.crt"],
    },
    "Route": {
        "upstream": ["https://api.openai.com/v1", "http://127.0.0.1:8090/v1", "${ACME_URL}", "demo"],
        "middlewares": [["prefix_rewrite", {"key": {"env": "ACME_API_KEY"}}]],
        "explicit_only": [True],
        "serves": [["acme-large", "acme-*"]],
        "list": ["ask", ["acme-large", "acme-small"], []],
        "proxy": ["http://proxy.corp.example:3128", "${OUTBOUND_PROXY}"],
        "tls": [{"ca": "/etc/tidegate/corp-ca.crt"}],
    },
    "UpstreamTls": {"ca": ["/etc/tidegate/corp-ca.crt"], "verify": [True]},
    "client_keys": {"file": ["/etc/tidegate/clients.yaml"]},
    "prefix_rewrite": {
        "strip": ["acme/", ""],
        "add": ["models/"],
        "map": [{"large": "acme-large-2026-10"}],
    },
    "headers": {
        "set": [{"HTTP-Referer": "https://team.example"}],
        "default": [{"X-Title": "team"}],
        "remove": [["X-Internal"]],
        "response": [{"remove": ["X-Debug"], "set": {"X-Served-By": "tidegate"}}],
        "user_agent": ["pass", "own"],
        "accept_risk": ["agreed with the provider on 2026-10-01"],
    },
    "ResponseOptions": {"set": [{"X-Served-By": "tidegate"}], "remove": [["X-Debug"]]},
    "key": {
        "env": ["ACME_API_KEY"],
        "credential": ["acme"],
        "file": ["/etc/tidegate/acme.env"],
        "header": ["auto", "x-api-key"],
        "expect": ["acme-"],
        "pass": [True],
    },
    "token_floor": {"min": [1500], "when_absent": ["leave", 8000], "cap": [32000]},
    "timeout": {
        "connect": ["10s"],
        "first_byte": ["60s"],
        "first_token": ["90s"],
        "idle": ["30s"],
        "total": ["600s", "${ACME_TIMEOUT_SECS:-600}s"],
    },
    "params": {
        "drop": [["temperature", "top_p"]],
        "rename": [{"max_tokens": "max_completion_tokens"}],
        "default": [{"reasoning_effort": "low"}],
        "set": [{"provider": {"order": ["moonshotai"], "allow_fallbacks": False}}],
    },
    "retry": {
        "attempts": [3],
        "when": [["connect", "reset", "rate_limited", "server_error"]],
        "backoff": [{"initial": "500ms", "max": "8s"}],
        "retry_after_max": ["60s"],
    },
    "Backoff": {"initial": ["500ms"], "max": ["8s"]},
    "breaker": {"failures": [5], "cooldown": ["30s"]},
    "stream": {
        "commit": ["first_event", "first_token", "headers", "complete"],
        "keepalive": ["15s"],
        "hold": ["8MiB"],
    },
    "concurrency": {"limit": [4], "queue": [20], "wait": ["30s"]},
    "rate_limit": {
        "requests": ["60/min"],
        "tokens": ["200000/min"],
        "concurrent": [8],
        "per": ["client", "route", "address"],
        "store": ["memory", "${REDIS_URL}"],
        "on_store_failure": ["local", "refuse"],
    },
    "usage": {"include_usage": [True, False]},
}

MIDDLEWARES: dict[str, list[Any]] = {
    "client_keys": [{"file": "/etc/tidegate/clients.yaml"}],
    "prefix_rewrite": [{"strip": "acme/"}, None],
    "headers": [{"set": {"X-Title": "team"}}, None],
    "key": [{"env": "ACME_API_KEY", "file": "/etc/tidegate/acme.env"}, [{"env": "KEY_A"}, {"env": "KEY_B"}]],
    "token_floor": [{"min": 1500}],
    "timeout": [{"total": "600s"}],
    "params": [{"drop": ["temperature"]}],
    "retry": [{"attempts": 3}],
    "breaker": [{"failures": 5, "cooldown": "30s"}],
    "stream": [{"commit": "first_token", "keepalive": "15s"}],
    "concurrency": [{"limit": 4, "queue": 20}],
    "rate_limit": [{"requests": "60/min", "per": "address"}],
    "usage": [{"include_usage": False}],
}
