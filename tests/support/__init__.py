"""What the tests stand on: simulated providers, the real process, and a client that sees raw bytes."""
