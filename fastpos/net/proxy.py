"""Which proxy the environment names for a host."""

from __future__ import annotations

from .opening import Address, parse_proxy

__all__ = ["proxy_from_environment"]


def proxy_from_environment(target: Address) -> Address | None:
    """Give the proxy that the usual environment variables name for `target`, None for none.

    For wss the first of ``wss_proxy``, ``https_proxy`` and ``all_proxy``, for ws of
    ``ws_proxy``, ``http_proxy`` and ``all_proxy`` that is set, in lower or upper case, unless
    ``no_proxy`` lists the host.

    Raises:
        ValueError: what is set there is no usable URL.
    """
    # Imported here: it is large, and most streams never get this far with a variable set.
    from urllib import request  # noqa: PLC0415

    named = request.getproxies_environment()
    if request.proxy_bypass_environment(target.host_port, named):  # type: ignore[attr-defined]
        return None
    for name in ("wss", "https", "all") if target.scheme == "wss" else ("ws", "http", "all"):
        url = named.get(name)
        if url:
            try:
                return parse_proxy(url if "://" in url else f"http://{url}")
            except ValueError as error:
                raise ValueError(f"{name}_proxy in the environment: {error}") from None
    return None
