"""The embedded model: an upstream that needs no key, no network and no weights."""
