"""How programs that others put in front of providers are set up, to do what tidegate does as far as they can.

One process or worker, HTTP/1.1 both ways, connections to the provider kept, nothing buffered: their best.
Each function writes what its program reads, and gives the arguments with which it is started.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from pathlib import Path

_NGINX = """
daemon off;
worker_processes 1;
worker_rlimit_nofile 20000;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 19000; multi_accept on; }}
http {{
  access_log {folder}/nginx.access.log;
  client_max_body_size 1g;
  client_body_temp_path {folder}/nginx-body;
  proxy_temp_path {folder}/nginx-proxy;
  fastcgi_temp_path {folder}/nginx-fastcgi;
  uwsgi_temp_path {folder}/nginx-uwsgi;
  scgi_temp_path {folder}/nginx-scgi;
  keepalive_requests 1000000000;
  upstream provider {{ server 127.0.0.1:{upstream}; keepalive 1024; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://provider;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Authorization "Bearer an-invented-key-of-the-benchmark";
      proxy_buffering off;
      proxy_request_buffering off;
      proxy_read_timeout 600s;
    }}
  }}
}}
"""


def nginx(port: int, upstream: int, folder: Path) -> Sequence[str]:
    """One worker."""
    file = folder / "nginx.conf"
    file.write_text(_NGINX.format(port=port, upstream=upstream, folder=folder))
    return ("-e", "stderr", "-p", str(folder), "-c", str(file))


def envoy(port: int, upstream: int, folder: Path) -> Sequence[str]:
    """One worker thread, with an access log."""
    log = {
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": str(folder / "envoy.access.log"),
        },
    }
    router = {
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
    }
    key = {"header": {"key": "Authorization", "value": "Bearer an-invented-key-of-the-benchmark"}}
    route = {
        "match": {"prefix": "/"},
        "route": {"cluster": "provider", "timeout": "600s"},
        "request_headers_to_add": [{**key, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}],
    }
    connections = {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3."
            "HttpConnectionManager",
            "stat_prefix": "in",
            "access_log": [log],
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
            "http_filters": [router],
        },
    }
    place = {"address": {"socket_address": {"address": "127.0.0.1", "port_value": upstream}}}
    unlimited = {"max_connections": 20000, "max_pending_requests": 20000, "max_requests": 20000}
    resources = {
        "listeners": [
            {
                "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
                "filter_chains": [{"filters": [connections]}],
            }
        ],
        "clusters": [
            {
                "name": "provider",
                "type": "STATIC",
                "circuit_breakers": {"thresholds": [unlimited]},
                "load_assignment": {
                    "cluster_name": "provider",
                    "endpoints": [{"lb_endpoints": [{"endpoint": place}]}],
                },
            }
        ],
    }
    file = folder / "envoy.json"
    file.write_text(json.dumps({"static_resources": resources}))
    return ("-c", str(file), "--concurrency", "1", "--log-level", "error", "--disable-hot-restart")


def vllm_router(port: int, upstream: int, _folder: Path) -> Sequence[str]:
    """The router of vLLM, which is written in Rust."""
    url = f"http://127.0.0.1:{upstream}"
    where = ("--host", "127.0.0.1", "--port", str(port), "--worker-urls", url)
    limits = ("--max-concurrent-requests", "20000", "--max-payload-size", str(1 << 30))
    metrics = ("--prometheus-host", "127.0.0.1", "--prometheus-port", str(free_port()))
    return (*where, *limits, *metrics, "--policy", "round_robin", "--log-level", "error")


def free_port() -> int:
    """One that was free just now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
