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
    native: bool | None = None
    """For fastpos: whether the row is about its compiled parts or about its Python alone."""

    def load(self) -> Callable[..., Any]:
        """The factory. Call it in the process that is to be this peer, before any other import.

        Raises `Unavailable` if a package or a wanted compiled part is missing.
        """
        os.environ["FASTPOS_PURE"] = "1" if self.native is False else "0"
        try:
            module = importlib.import_module(self.module)
            if self.native:
                importlib.import_module("fastpos")
                if why_not := importlib.import_module("fastpos._c").why_not:
                    raise Unavailable(", ".join(f"{part}: {why_not[part]}" for part in why_not))
        except ImportError as error:
            raise Unavailable(str(error)) from error
        factory: Callable[..., Any] = getattr(module, self.factory)
        return factory
