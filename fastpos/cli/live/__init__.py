"""What ``fastpos watch`` shows on a terminal: a live table (extra "watch").

From what is known (known.py) and the time it is made anew some times a second, never for an event:
figures (figures.py), as text and signs (paint.py), in columns that fit (table.py), in sections
(header.py, sections.py), on a screen (screen.py). All of that is plain functions; what touches the
terminal, a signal or a key is in driver.py alone.
"""

from .driver import live

__all__ = ["live"]
