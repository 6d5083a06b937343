"""Whether the C extensions are wanted: not with ``FASTPOS_PURE=1`` in the environment."""

from __future__ import annotations

import os

__all__ = ["check_wanted"]


def check_wanted() -> None:
    """Raise ImportError, as an extension does that was not built, where they are not wanted."""
    if os.environ.get("FASTPOS_PURE", "0") not in ("", "0"):
        raise ImportError("FASTPOS_PURE is set")
