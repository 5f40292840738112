"""Sockets and signals: serves a route table over aiohttp. Importing the package does no work."""

__version__ = "0.1.0"
