"""Policy between client and provider: no sockets, no YAML, no HTTP library of its own."""
