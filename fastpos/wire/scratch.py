"""The buffer that is read into: large when much comes, a page while little does.

It is all there from the beginning, so that a burst is taken in one read: each read lets go of the
GIL, and beside a busy thread every time can cost the whole switch interval. But it is memory that
the kernel has only promised; what was never written takes none, and that is all but the first page
as long as a read brings no more. When a burst is over it is exchanged for a new one.
"""

from __future__ import annotations

import mmap

__all__ = ["SCRATCH_SIZE", "SMALL", "Scratch"]

SCRATCH_SIZE = 128 * 1024
SMALL = 4096
# After so many reads in a row that would have fitted in SMALL, the rest is given back.
QUIET = 64


class Scratch:
    """One buffer for all that one thread reads. It belongs to that thread.

    Args:
        size: of the buffer, bytes.
    """

    __slots__ = ("_quiet", "_size", "is_large", "view")

    def __init__(self, size: int = SCRATCH_SIZE) -> None:
        self._size = size
        self.view: memoryview = memoryview(mmap.mmap(-1, size))
        """Where to read into; ask anew for every read."""
        self.is_large: bool = False
        """Whether more than its first page may have been written."""
        self._quiet = 0  # small reads since a larger one

    def used(self, count: int) -> None:
        """Say that a read brought `count` bytes, which are not needed any more.

        Where it `is_large`, or they were more than `SMALL`; else there is nothing to say.
        """
        if count > SMALL:
            self.is_large, self._quiet = True, 0
        elif self.is_large:
            self._quiet += 1
            if self._quiet >= QUIET:
                self.is_large = False
                self.view = memoryview(mmap.mmap(-1, self._size))
