"""What a process needs in order to become one peer or one decoder of a group."""

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Spec", "Unavailable"]


class Unavailable(Exception):
    """This peer can't run here, and the message says why: it is skipped, with that note."""


@dataclass(frozen=True)
class Spec:
    label: str
    module: str
    factory: str
    inflater: str | None = None
    """For fastpos, the inflater that the row is about: "isa-l" (the extension) or "isal"."""

    def load(self) -> Callable[..., Any]:
        """The factory. Call it in the process that is to be this peer, before any other import.

        Raises `Unavailable` if a package or the wanted inflater is missing.
        """
        os.environ.pop("FASTPOS_PURE", None)
        if self.inflater == "isal":
            os.environ["FASTPOS_PURE"] = "1"
        try:
            module = importlib.import_module(self.module)
            if self.inflater is not None:
                fastpos = importlib.import_module("fastpos")
                inflater = getattr(fastpos, "inflater", "none")
                if inflater != self.inflater:
                    raise Unavailable(f"the inflater here is {inflater}")
        except ImportError as error:
            raise Unavailable(str(error)) from error
        factory: Callable[..., Any] = getattr(module, self.factory)
        return factory
