"""The route table as text and shapes: no HTTP, no event loop, no work at import."""
