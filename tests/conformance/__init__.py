"""The Autobahn test suite against fastpos' WebSocket layer: `pytest -m conformance`."""
