"""Sockets: addresses, TCP, TLS, proxies, the WebSocket upgrade, one connection."""
